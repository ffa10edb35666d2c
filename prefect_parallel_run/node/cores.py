"""The cores of a node, and the environment variables that limit the threads of its processes.

Without a limit, each numerical library starts one thread per core of the machine, in every process.
"""

from __future__ import annotations

from collections.abc import Mapping

OPENMP = "OMP_NUM_THREADS"
_FOLLOWERS = (  #: a library that reads one of these reads OMP_NUM_THREADS if it is missing
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_OTHERS = ("VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS")
VARIABLES = (OPENMP, *_FOLLOWERS, *_OTHERS)
_NANNY_MARK = ("MALLOC_TRIM_THRESHOLD_", "65536")  #: a variable that Dask's nanny sets by default, and its value
_NANNY_LIMIT = "1"  #: its limit of threads


def usable_cores(nodes: int = 1) -> int:
    """Return the number of cores, at least 1, for each of the *nodes* that share this machine.

    Counts the cores that this process may use: by its CPU affinity and by the quota of its control group.
    """
    from dask.system import CPU_COUNT  # noqa: PLC0415  a prepared node must not wait for Dask

    return max(1, int(CPU_COUNT) // nodes)


def user_limits(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the limits in the *environment* of a process that a user has set.

    Where Dask's nanny has set variables, 1 does not count: it sets some limits to 1, in its worker and in its own process,
    where these stay when its cluster is closed.
    """
    limits = {name: environment[name] for name in VARIABLES if name in environment}
    mark, value = _NANNY_MARK
    if environment.get(mark) == value:
        return {name: limit for name, limit in limits.items() if limit != _NANNY_LIMIT}
    return limits


def override(lower: Mapping[str, str], higher: Mapping[str, str]) -> dict[str, str]:
    """Return the limits in *lower*, overridden by those in *higher*; OMP_NUM_THREADS there overrides those that follow it.

    >>> override({"MKL_NUM_THREADS": "2", "RAYON_NUM_THREADS": "2"}, {"OMP_NUM_THREADS": "4"})
    {'RAYON_NUM_THREADS': '2', 'OMP_NUM_THREADS': '4'}
    """
    overridden = _FOLLOWERS if OPENMP in higher else ()
    return {**{name: limit for name, limit in lower.items() if name not in overridden}, **higher}


def with_thread_limit(environment: Mapping[str, str], threads: int, limits: Mapping[str, str]) -> dict[str, str]:
    """Return *environment* with variables that limit a process to *threads* threads; *limits* of the user have precedence.

    >>> limited = with_thread_limit({"OMP_NUM_THREADS": "1"}, 4, {"OMP_NUM_THREADS": "2", "RAYON_NUM_THREADS": "8"})
    >>> limited["OMP_NUM_THREADS"], limited["POLARS_MAX_THREADS"], limited["RAYON_NUM_THREADS"]
    ('2', '4', '8')
    >>> "MKL_NUM_THREADS" in limited  # it follows OMP_NUM_THREADS
    False
    """
    others = {name: value for name, value in environment.items() if name not in VARIABLES}
    return {**others, **override(dict.fromkeys(VARIABLES, str(threads)), limits)}
