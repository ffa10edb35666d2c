"""How each Dask cluster class is asked for nodes, and whether the real classes take those words."""

import importlib
import inspect

import pytest

from prefect_parallel_run.compute.dask_classes import arguments_for

QUEUES = ["SLURM", "PBS", "SGE", "HTCondor", "LSF", "OAR", "Moab"]
KNOWN = {
    **{f"dask_jobqueue.{queue}Cluster": {"memory": "1GB"} for queue in QUEUES},
    "dask_jobqueue.local.LocalCluster": {"memory": "1GB"},
    "dask_kubernetes.operator.KubeCluster": {"image": "x:1"},
    "dask_gateway.GatewayCluster": {},
    "dask_cuda.LocalCUDACluster": {},
    "coiled.Cluster": {},
    "distributed.LocalCluster": {},
    "distributed.SSHCluster": {"hosts": ["a", "b", "c", "d"]},
}


@pytest.mark.parametrize(
    "name", ["distributed.LocalCluster", "dask.distributed.LocalCluster", "distributed.deploy.local.LocalCluster"]
)
def test_a_local_cluster_stays_on_loopback(name):
    """By every module path of the class."""
    words = arguments_for(name, 3, 2, {})
    assert (words.arguments["n_workers"], words.arguments["threads_per_worker"], words.scales_by) == (3, 2, "n_workers")
    assert (words.arguments["host"], words.arguments["dashboard_address"]) == ("127.0.0.1", "127.0.0.1:0")


@pytest.mark.parametrize("given", [{}, {"host": "localhost"}, {"host": "0.0.0.0"}, {"interface": "eth0"}, {"protocol": "tls"}])
def test_a_local_cluster_gets_certificates(given):
    """Unless the user passes some: every user of the machine can connect to its loopback."""
    words = arguments_for("distributed.LocalCluster", 1, None, given)
    assert (words.wants_security, words.is_plain) == (True, False)
    assert words.arguments["threads_per_worker"] == 1
    assert not arguments_for("distributed.LocalCluster", 1, None, {**given, "security": True}).wants_security


@pytest.mark.parametrize("name", ["distributed.LocalCluster", "dask_cuda.LocalCUDACluster", "dask_jobqueue.SLURMCluster"])
@pytest.mark.parametrize("protocol", ["tcp", "tcp://", "ucx"])
def test_an_unencrypted_protocol_requires_allow_insecure(name, protocol):
    """Certificates would have no effect."""
    assert arguments_for(name, 1, 1, {"protocol": protocol}).is_plain


def test_a_gpu_cluster_is_a_local_one_with_a_worker_per_gpu():
    words = arguments_for("dask_cuda.LocalCUDACluster", 4, None, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"})
    assert (words.arguments["n_workers"], words.arguments["host"]) == (4, "127.0.0.1")
    assert words.arguments["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"


@pytest.mark.parametrize("queue", QUEUES)
def test_a_job_has_one_worker(queue):
    """With one core per slot; scaled afterwards, so that errors of the queue are reported."""
    words = arguments_for(f"dask_jobqueue.{queue}Cluster", 3, 8, {"memory": "8GB", "queue": "long"})
    assert words.arguments.items() >= {"processes": 1, "cores": 8, "memory": "8GB", "queue": "long"}.items()
    assert "n_workers" not in words.arguments
    assert (words.scales_by, words.wants_security, words.certificate_folder) == ("scale", True, "shared_temp_directory")


def test_without_slots_the_cores_are_the_users_or_the_sites():
    assert "cores" not in arguments_for("dask_jobqueue.SLURMCluster", 1, None, {}).arguments
    assert arguments_for("dask_jobqueue.SLURMCluster", 1, 8, {"cores": 16}).arguments["cores"] == 16


def test_user_options_override_defaults_one_by_one():
    """Other defaults, such as the dashboard's address, stay."""
    given = {"scheduler_options": {"interface": "ib0"}, "worker_extra_args": ["--lifetime", "55m"]}
    arguments = arguments_for("dask_jobqueue.SLURMCluster", 1, 1, given).arguments
    assert arguments["scheduler_options"] == {"allowed_failures": 0, "dashboard_address": "127.0.0.1:0", "interface": "ib0"}
    assert arguments["worker_extra_args"] == ["--no-dashboard", "--dashboard-address", "127.0.0.1:0", "--lifetime", "55m"]
    given = {"scheduler_options": {"dashboard_address": ":8787"}, "processes": 2}
    arguments = arguments_for("dask_jobqueue.SLURMCluster", 1, 1, given).arguments
    assert (arguments["scheduler_options"]["dashboard_address"], arguments["processes"]) == (":8787", 2)


def test_jobs_on_this_machine_stay_on_loopback():
    words = arguments_for("dask_jobqueue.local.LocalCluster", 2, 2, {"memory": "1GB"})
    assert words.arguments["scheduler_options"]["host"] == "127.0.0.1"
    assert words.arguments["worker_extra_args"][-2:] == ["--host", "127.0.0.1"]
    assert (words.wants_security, words.certificate_folder) == (True, "shared_temp_directory")


@pytest.mark.parametrize("name", ["dask_kubernetes.operator.KubeCluster", "dask_kubernetes.KubeCluster"])
def test_pods_are_not_encrypted(name):
    """A custom specification has its own number of workers, which is corrected afterwards."""
    words = arguments_for(name, 3, 4, {"image": "x:1"})
    assert (words.arguments["n_workers"], words.scales_by, words.is_plain) == (3, "n_workers", True)
    words = arguments_for(name, 3, 4, {"custom_cluster_spec": {}})
    assert "n_workers" not in words.arguments
    assert (words.scales_by, words.is_plain) == ("scale", True)


def test_a_gateway_gets_only_the_users_arguments():
    """It refuses options that its administrator has not allowed."""
    words = arguments_for("dask_gateway.GatewayCluster", 3, 4, {"address": "https://gateway"})
    assert (dict(words.arguments), words.scales_by) == ({"address": "https://gateway"}, "scale")


def test_a_cloud_does_not_scale_adaptively():
    words = arguments_for("coiled.Cluster", 3, 4, {"region": "eu-west-1"})
    assert dict(words.arguments) == {"n_workers": 3, "wait_for_workers": False, "region": "eu-west-1"}
    assert not words.wants_security


def test_hosts_are_nodes_plus_a_scheduler():
    """Lists with an entry per host are shortened with them."""
    given = {"hosts": ["a", "b", "c", "d"], "connect_options": [{"port": n} for n in range(4)], "remote_python": "/python"}
    words = arguments_for("distributed.SSHCluster", 2, None, given)
    assert words.arguments["hosts"] == ["a", "b", "c"]
    assert words.arguments["connect_options"] == [{"port": 0}, {"port": 1}, {"port": 2}]
    assert (words.arguments["remote_python"], words.arguments["worker_options"]["nthreads"]) == ("/python", 1)
    assert (words.scales_by, words.is_plain) == ("fixed", True)
    assert given["hosts"] == ["a", "b", "c", "d"], "the user's list is left alone"
    assert not arguments_for("distributed.SSHCluster", 2, 1, {**given, "scheduler_options": {"protocol": "tls://"}}).is_plain


@pytest.mark.parametrize(
    ("accepted", "asked"),
    [(["n_workers", "security"], ("n_workers", True)), (["security"], ("scale", True)), (["n_workers"], ("n_workers", False))],
)
def test_an_unknown_class_is_called_by_its_parameters(accepted, asked):
    words = arguments_for("site.clusters.OurCluster", 3, 4, {"a": 1}, accepted)
    assert (words.scales_by, words.wants_security) == asked
    assert words.arguments == ({"n_workers": 3, "a": 1} if "n_workers" in accepted else {"a": 1})


def accepted_by(cluster_class):
    """Names that a class takes: its own, and those that it hands on to its base, its jobs or their workers."""
    names = set()
    kinds = [kind.__init__ for kind in getattr(cluster_class, "__mro__", ())] or [cluster_class]
    job = getattr(cluster_class, "job_cls", None)
    kinds += [kind.__init__ for kind in getattr(job, "__mro__", ())]
    for kind in kinds:
        names |= set(inspect.signature(kind).parameters)
    return names


@pytest.mark.parametrize("name", KNOWN)
def test_the_real_class_accepts_the_arguments(name):
    """For the installed classes."""
    module, _, last = name.rpartition(".")
    try:
        cluster_class = getattr(importlib.import_module(module), last)
    except ImportError as error:
        pytest.skip(f"{error.name} is not installed")
    words = arguments_for(name, 2, 2, KNOWN[name])
    accepted = accepted_by(cluster_class)
    passed_on = {"memory_limit"} if last in ("LocalCluster", "LocalCUDACluster") else set()  # to the workers
    assert set(words.arguments) - passed_on <= accepted
    assert ("security" in accepted) or not words.wants_security
    assert {words.certificate_folder, words.scheduler_options} <= {None, *accepted}
    assert words.scales_by != "scale" or callable(cluster_class.scale)
    if words.is_plain and last == "KubeCluster":
        assert "security" not in accepted


@pytest.mark.filterwarnings("ignore:OAR Job memory reserved:UserWarning")  # its site has to name a property
@pytest.mark.parametrize("queue", QUEUES)
def test_a_real_job_starts_one_worker_with_its_cores(queue):
    """As dask-jobqueue writes the job."""
    jobqueue = pytest.importorskip("dask_jobqueue")
    own = {"disk": "1GB"} if queue == "HTCondor" else {}
    words = arguments_for(f"dask_jobqueue.{queue}Cluster", 3, 4, {"memory": "8GB", **own})
    of_the_job = {name: value for name, value in words.arguments.items() if name != "scheduler_options"}
    job = getattr(jobqueue, f"{queue}Cluster").job_cls("tcp://scheduler:1", name="node", **of_the_job)
    assert "--nthreads 4" in job.job_script()
    assert "--nworkers" not in job.job_script()
    assert "--no-dashboard --dashboard-address 127.0.0.1:0" in job.job_script()
