"""How many threads the libraries in a process may start."""

from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run.node.cores import OPENMP, VARIABLES, override, user_limits, with_thread_limit

from ...interpreter import facts_of

LIMITS = st.dictionaries(st.sampled_from(VARIABLES), st.sampled_from(["1", "2", "16"]))


FOLLOWERS = {"OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS"}


@given(LIMITS, st.integers(1, 64), LIMITS, LIMITS)
def test_every_library_has_a_limit(inherited, threads, lower, higher):
    """The limit is in its variable, or in OMP_NUM_THREADS when the user set that; inherited limits do not count."""
    limited = with_thread_limit({"PATH": "/bin", **inherited}, threads, override(lower, higher))
    assert limited.pop("PATH") == "/bin"
    for name in VARIABLES:
        follows = FOLLOWERS if name in FOLLOWERS else set()
        if name in higher:
            expected = higher[name]
        elif follows and OPENMP in higher:
            expected = None
        elif name in lower:
            expected = lower[name]
        elif follows and OPENMP in lower:
            expected = None
        else:
            expected = str(threads)
        assert limited.get(name) == expected


def test_what_a_nanny_sets_for_its_worker_does_not_count():
    """Other values are the user's."""
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "3", "PATH": "/bin"}
    assert user_limits(environment) == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "3"}
    assert user_limits({**environment, "MALLOC_TRIM_THRESHOLD_": "65536"}) == {"MKL_NUM_THREADS": "3"}


def test_only_usable_cores_count():
    """Nodes on one machine share them; each has at least one."""
    code = (
        "import os\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from prefect_parallel_run.node.cores import usable_cores\n"
        "facts = {'alone': usable_cores(), 'of three': usable_cores(3)}\n"
    )
    assert facts_of(code) == {"alone": 1, "of three": 1}
