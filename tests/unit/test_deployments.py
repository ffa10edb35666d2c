"""Every file of deployments/ is what the tool that reads it accepts, by that tool's own schema."""

import ast
import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from prefect_parallel_run.compute.dask_classes import arguments_for

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = ROOT / "deployments"
SCHEMAS = ROOT / "tests" / "schemas"
PREFECT_FILES = sorted(DEPLOYMENTS.glob("**/prefect.yaml"))
TYPES = {"deployments": "process", "docker": "process", "slurm": "process", "kubernetes": "kubernetes"}
KINDS = {
    "Deployment": "io.k8s.api.apps.v1.Deployment",
    "Job": "io.k8s.api.batch.v1.Job",
    "NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
    "PersistentVolumeClaim": "io.k8s.api.core.v1.PersistentVolumeClaim",
    "Role": "io.k8s.api.rbac.v1.Role",
    "RoleBinding": "io.k8s.api.rbac.v1.RoleBinding",
    "ServiceAccount": "io.k8s.api.core.v1.ServiceAccount",
}


def read(name):
    return yaml.safe_load((DEPLOYMENTS / name).read_text())


def manifests(name):
    return list(yaml.safe_load_all((DEPLOYMENTS / name).read_text()))


def deployments():
    for path in PREFECT_FILES:
        for deployment in yaml.safe_load(path.read_text())["deployments"]:
            name = f"{path.parent.name}-{deployment['name']}-{re.split('[:.]', deployment['entrypoint'])[-1]}"
            yield pytest.param(path.parent.name, deployment, id=name)


def check_kubernetes(manifest):
    definitions = json.loads((SCHEMAS / "kubernetes-1.37.json").read_text())
    jsonschema.Draft202012Validator({**definitions, "$ref": f"#/$defs/{KINDS[manifest['kind']]}"}).validate(manifest)


def closed(schema):
    """The schema with every object's unknown keys refused, as ``kubectl --validate=strict`` does."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    shut = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        shut.setdefault("additionalProperties", False)
    return shut


def check_dask_cluster(manifest):
    schema = closed(json.loads((SCHEMAS / "daskcluster-2026.3.0.json").read_text()))
    schema["properties"] |= {name: {} for name in ("apiVersion", "kind", "metadata")}
    jsonschema.Draft202012Validator(schema).validate(manifest)
    assert (manifest["apiVersion"], manifest["kind"]) == ("kubernetes.dask.org/v1", "DaskCluster")


def worker_template(kind):
    """The base job template that Prefect gives to work pools of this type."""
    import prefect.server

    views = Path(prefect.server.__file__).parent / "api" / "collections_data" / "views"
    collections = json.loads((views / "aggregate-worker-metadata.json").read_text())
    return next(types[kind]["default_base_job_configuration"] for types in collections.values() if kind in types)


def unknown_keys(model, value):
    """Keys that a pydantic model of Prefect's would silently ignore."""
    names = {field.alias or name for name, field in model.model_fields.items()}
    return set(value) - names


@pytest.mark.parametrize("path", PREFECT_FILES, ids=lambda path: path.parent.name)
def test_prefect_reads_it(path):
    """By the models with which ``prefect deploy`` reads it, and without a key that it would ignore."""
    models = pytest.importorskip("prefect.cli.deploy._models")
    content = yaml.safe_load(path.read_text())
    models.PrefectYamlModel.model_validate(content)
    assert unknown_keys(models.PrefectYamlModel, content) <= {"definitions"}, "definitions holds anchors"
    for deployment in content["deployments"]:
        assert not unknown_keys(models.DeploymentConfig, deployment)
        assert not unknown_keys(models.WorkPoolConfig, deployment["work_pool"])
        for schedule in deployment.get("schedules", []):
            models.RawScheduleConfig.model_validate(schedule)
    names = [(deployment["entrypoint"], deployment["name"]) for deployment in content["deployments"]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", PREFECT_FILES, ids=lambda path: path.parent.name)
def test_its_steps_exist(path):
    """Under the names and with the arguments that they are called with."""
    import inspect

    from prefect.utilities.importtools import import_object

    content = yaml.safe_load(path.read_text())
    for step in content.get("build", []) + content["pull"]:
        ((name, arguments),) = step.items()
        assert set(arguments) - {"id", "requires"} <= set(inspect.signature(import_object(name)).parameters)


def check_ready_made(entrypoint, parameters):
    """By the schema that the server holds them against, and by what the flow makes of them."""
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.schema_tools import validate

    from prefect_parallel_run.task.forms import configuration, dataset

    flow = load_flow_from_entrypoint(entrypoint)
    validate(parameters, parameter_schema(flow).model_dump_for_openapi(), raise_on_error=True, ignore_required=True)
    if parameters:
        configuration(parameters["config"])
        assert [dataset(place, given).kind for place, given in enumerate(parameters["inputs"])] == ["file"]


@pytest.mark.parametrize(("kind", "deployment"), list(deployments()))
def test_its_flow_takes_the_parameters(kind, deployment, monkeypatch):
    """The flow is there, and its parameters, the compute target's fields included, are valid."""
    from prefect_parallel_run.config.model import ParallelRunConfig
    from prefect_parallel_run.config.where import ComputeTarget

    monkeypatch.chdir(ROOT)  # where the deployment's pull step goes
    path, _, name = deployment["entrypoint"].partition(":")
    if not name:
        check_ready_made(path, deployment.get("parameters", {}))
        return
    functions = [node for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)]
    (flow,) = [node for node in functions if node.name == name]
    assert any(ast.unparse(decorator).startswith("flow") for decorator in flow.decorator_list)
    assert set(deployment["parameters"]) <= {argument.arg for argument in flow.args.args}
    if "compute_target" in deployment["parameters"]:
        target = ComputeTarget.model_validate(deployment["parameters"]["compute_target"])
        config = {"entry_script": "score_digits.py", "source_directory": str(ROOT / "flows" / "scripts"), "error_threshold": 0}
        ParallelRunConfig(**config, output_action="append_row", compute_target=target)


@pytest.mark.parametrize(("kind", "deployment"), list(deployments()))
def test_its_work_pool_knows_the_job_variables(kind, deployment):
    """By the schema of the work pool's type."""
    variables = worker_template(TYPES[kind])["variables"]
    given = deployment["work_pool"].get("job_variables", {})
    jsonschema.Draft7Validator({**variables, "additionalProperties": False}).validate(given)


def test_compose_file():
    """The Compose specification's schema; besides, what one part says of another is so."""
    compose = read("docker/compose.yaml")
    jsonschema.Draft7Validator(json.loads((SCHEMAS / "compose-spec.json").read_text())).validate(compose)
    services = compose["services"]
    for name, service in services.items():
        assert set(service.get("networks", [])) <= set(compose["networks"]), name
        assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= set(compose["volumes"]), name
        assert set(service.get("depends_on", {})) <= set(services), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        build = service["build"]
        assert (
            DEPLOYMENTS / "docker" / build["context"] / build["dockerfile"]
        ).resolve() == DEPLOYMENTS / "docker" / "Dockerfile"
    assert compose["networks"]["dask"]["internal"]


def test_compose_and_prefect_agree():
    """On the pool, on where the flows are, on the scheduler's address and certificates."""
    compose, prefect = read("docker/compose.yaml"), read("docker/prefect.yaml")
    command = compose["services"]["worker"]["command"]
    dockerfile = (DEPLOYMENTS / "docker" / "Dockerfile").read_text()
    (step,) = prefect["pull"]
    assert f"WORKDIR {step['prefect.deployments.steps.set_working_directory']['directory']}" in dockerfile
    mounted = [volume.split(":")[1] for volume in compose["services"]["worker"]["volumes"]]
    for deployment in prefect["deployments"]:
        assert deployment["work_pool"]["name"] == command[command.index("--pool") + 1]
        assert any(deployment["parameters"]["folder"].startswith(f"{folder}/") for folder in mounted)
        if target := deployment["parameters"].get("compute_target"):
            assert target["address"] in compose["services"]["dask-worker"]["command"]
    variable = "DASK_DISTRIBUTED__COMM__TLS__CA_FILE"
    assert (
        len({compose["services"][name]["environment"][variable] for name in ("worker", "dask-worker", "dask-scheduler")}) == 1
    )


def test_certificates(tmp_path):
    """They fit together, are their owner's alone, and stay when they are there."""
    from distributed import Security

    specification = importlib.util.spec_from_file_location("certificates", DEPLOYMENTS / "docker" / "certificates.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.write(tmp_path)
    files = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(files) == {"ca.pem", "cert.pem", "key.pem"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    security = Security(tls_ca_file=str(tmp_path / "ca.pem"), tls_client_cert=cert, tls_client_key=key, require_encryption=True)
    assert security.get_connection_args("client")["ssl_context"].cert_store_stats()["x509"] == 1
    module.write(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_dockerfile():
    """Hadolint has nothing to say, the base has a full version, and the container does not run as root."""
    path = DEPLOYMENTS / "docker" / "Dockerfile"
    text = path.read_text()
    assert re.search(r"^FROM python:3\.\d+\.\d+-slim-\w+$", text, re.MULTILINE)
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "10001:10001"
    hadolint = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    said = subprocess.run([hadolint, str(path)], capture_output=True, text=True, check=False, timeout=60)
    assert (said.returncode, said.stdout) == (0, "")


def test_dockerfile_copies_what_there_is():
    """Everything that it copies exists and is not left out of the context; its extras are ours."""
    text = (DEPLOYMENTS / "docker" / "Dockerfile").read_text()
    sources = {name for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for name in line.split()}
    assert all((ROOT / source).exists() for source in sources)
    ignore = (DEPLOYMENTS / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignore if line.startswith("!")} == sources
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.search(r"pip install .*\[(\S+)\]", text)[1].split(","):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


@pytest.mark.parametrize("name", ["kubernetes/prefect-worker.yaml", "kubernetes/network-policy.yaml"])
def test_kubernetes_accepts_it(name):
    """Every document, by the strict schema of its kind."""
    for manifest in manifests(name):
        check_kubernetes(manifest)
        assert manifest["metadata"]["namespace"] == "prefect"


def test_kubernetes_schemas_find_a_misspelt_key():
    """So that the tests above say something."""
    deployment = manifests("kubernetes/prefect-worker.yaml")[-1]
    deployment["spec"]["template"]["spec"]["containers"][0]["commands"] = ["x"]
    with pytest.raises(jsonschema.ValidationError):
        check_kubernetes(deployment)
    cluster = read("kubernetes/dask-cluster.yaml")
    cluster["spec"]["worker"]["spec"]["containers"][0]["commands"] = ["x"]
    with pytest.raises(jsonschema.ValidationError):
        check_dask_cluster(cluster)


def test_kubernetes_parts_agree():
    """Bindings name roles and accounts that there are; the pods' claim and labels are those that others speak of."""
    parts = {(part["kind"], part["metadata"]["name"]): part for part in manifests("kubernetes/prefect-worker.yaml")}
    for (kind, _), part in parts.items():
        if kind == "RoleBinding":
            assert ("Role", part["roleRef"]["name"]) in parts
            assert all((subject["kind"], subject["name"]) in parts for subject in part["subjects"])
    pool = read("kubernetes/work-pool.json")
    assert ("ServiceAccount", pool["variables"]["properties"]["service_account_name"]["default"]) in parts
    pod = pool["job_configuration"]["job_manifest"]["spec"]["template"]
    for volumes in (pod["spec"]["volumes"], read("kubernetes/dask-cluster.yaml")["spec"]["worker"]["spec"]["volumes"]):
        assert ("PersistentVolumeClaim", volumes[0]["persistentVolumeClaim"]["claimName"]) in parts
    (policy,) = manifests("kubernetes/network-policy.yaml")
    assert policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"] == pod["metadata"]["labels"]


def test_work_pool_makes_a_job():
    """Its placeholders are variables; filled with their defaults they make a Job that Kubernetes accepts."""
    pool = read("kubernetes/work-pool.json")
    variables = pool["variables"]["properties"]
    jsonschema.Draft7Validator.check_schema(pool["variables"])
    assert set(variables) == set(worker_template("kubernetes")["variables"]["properties"])
    filled = {"name": "run", "env": [], "labels": {}, "command": ["x"], **dict.fromkeys(("cpu_limit", "cpu_request"), "1")}
    filled |= dict.fromkeys(("memory_limit", "memory_request"), "1Gi")

    def fill(part):
        if isinstance(part, dict):
            return {key: fill(value) for key, value in part.items()}
        if isinstance(part, list):
            return [fill(value) for value in part]
        if isinstance(part, str) and (found := re.search(r"\{\{ (\w+) \}\}", part)):
            value = filled[found[1]] if found[1] in filled else variables[found[1]]["default"]
            return value if part == found[0] else part.replace(found[0], value)
        return part

    check_kubernetes(fill(pool["job_configuration"]["job_manifest"]))


def test_dask_cluster():
    """The operator's own schema; and what KubeCluster is asked to make of it."""
    check_dask_cluster(read("kubernetes/dask-cluster.yaml"))
    target = read("kubernetes/prefect.yaml")["deployments"][0]["parameters"]["compute_target"]
    assert (ROOT / target["cluster_kwargs"]["custom_cluster_spec"]).exists()
    assert arguments_for(target["cluster_class"], 4, 1, target["cluster_kwargs"]).scales_by == "scale"


def test_kube_cluster_by_its_arguments():
    """What dask-kubernetes makes of the arguments of the README's example is a DaskCluster too."""
    operator = pytest.importorskip("dask_kubernetes.operator")
    words = arguments_for(
        "dask_kubernetes.operator.KubeCluster", 3, 1, {"name": "x", "image": "x:1", "resources": {}, "env": {}}
    )
    check_dask_cluster(operator.make_cluster_spec(**{k: v for k, v in words.arguments.items() if k != "quiet"}))


def directives(script):
    """Options of the #SBATCH lines: what stands before the first command, as sbatch reads them."""
    found = []
    for line in script.splitlines():
        if line.startswith("#SBATCH "):
            found += line.removeprefix("#SBATCH ").split(" #")[0].split()
        elif line and not line.startswith("#"):
            break
    return found


def slurm_job():
    """The job script that dask-jobqueue writes for the recipe's compute target."""
    jobqueue = pytest.importorskip("dask_jobqueue")
    parameters = read("slurm/prefect.yaml")["deployments"][0]["parameters"]
    target = parameters["compute_target"]
    arguments = dict(arguments_for(target["cluster_class"], parameters["node_count"], 1, target["cluster_kwargs"]).arguments)
    arguments.pop("scheduler_options")  # the cluster's own
    return jobqueue.SLURMCluster.job_cls("tls://login:1", name="node", **arguments).job_script()


def test_slurm_job(tmp_path, monkeypatch):
    """One worker on the cores and in the memory that were asked for."""
    monkeypatch.chdir(tmp_path)  # where its log folder is made
    script = slurm_job()
    options = directives(script)
    for option in ("--cpus-per-task=1", "--mem=8G", "-p", "normal", "-t", "01:00:00", "-n"):
        assert option in options
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=20)


def test_slurm_worker():
    """A shell script whose directives sbatch would see, and which asks for a signal before its end."""
    path = DEPLOYMENTS / "slurm" / "worker.sbatch"
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=20)
    assert os.access(path, os.X_OK)
    options = directives(path.read_text())
    assert "--signal=B:USR1@600" in options
    assert len(options) == path.read_text().count("\n#SBATCH ")


def slurm_is_up():
    if shutil.which("sbatch") is None or shutil.which("sinfo") is None:
        return False
    return subprocess.run(["sinfo", "--noheader"], capture_output=True, check=False, timeout=60).returncode == 0


def test_sbatch_accepts_both(tmp_path, monkeypatch):
    """``sbatch --test-only`` reads every directive; what this machine's SLURM has not got is no fault of theirs."""
    if not slurm_is_up():
        pytest.skip("no SLURM controller answers")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.sh").write_text(slurm_job())
    for script in (tmp_path / "job.sh", DEPLOYMENTS / "slurm" / "worker.sbatch"):
        said = subprocess.run(["sbatch", "--test-only", str(script)], capture_output=True, text=True, check=False, timeout=60)
        lacking = ("invalid partition", "Requested node configuration", "Memory specification", "More processors requested")
        assert said.returncode == 0 or any(reason in said.stderr for reason in lacking), said.stderr


def test_every_file_is_known():
    """One that is added gets a test."""
    known = {
        "README.md",
        "prefect.yaml",
        *(
            f"docker/{name}"
            for name in ("Dockerfile", "Dockerfile.dockerignore", "certificates.py", "compose.yaml", "prefect.yaml")
        ),
        *(f"kubernetes/{name}" for name in ("dask-cluster.yaml", "network-policy.yaml", "prefect-worker.yaml", "prefect.yaml")),
        "kubernetes/work-pool.json",
        *(f"slurm/{name}" for name in ("prefect.yaml", "worker.sbatch")),
    }
    files = {str(path.relative_to(DEPLOYMENTS)) for path in DEPLOYMENTS.rglob("*") if path.is_file()}
    assert {name for name in files if "__pycache__" not in name} == known


@pytest.mark.parametrize("command", re.findall(r"deployments/[\w./-]+", (DEPLOYMENTS / "README.md").read_text()))
def test_the_readme_names_files_that_are_there(command):
    """In the commands that are to be copied."""
    assert (ROOT / command.rstrip(".")).exists()
