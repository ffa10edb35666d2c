"""The GPUs of a node, and which process gets which: one each, told by ``CUDA_VISIBLE_DEVICES``. Imports no framework."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Mapping

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
_ENTRY = re.compile(r"[0-9]+|(GPU|MIG)-[0-9A-Za-z/-]+")
_LISTED = re.compile(r"^GPU (?P<index>[0-9]+):|^\s+MIG .*\(UUID: (?P<mig>MIG-[^)\s]+)\)", re.MULTILINE)
_PATIENCE = 10.0  #: s; with many GPUs, and no process that keeps their driver loaded, nvidia-smi takes some of them


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the GPUs that a process with this environment may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    What that variable says counts; without it, what nvidia-smi lists. Where it is absent or fails, there are none.

    >>> visible_gpus({"CUDA_VISIBLE_DEVICES": "2, GPU-8932f937,-1,3"})
    ('2', 'GPU-8932f937')
    """
    given = environment.get(VISIBLE)
    if given is None:
        program = shutil.which("nvidia-smi", path=environment.get("PATH"))
        return _listed(program) if program is not None else ()
    found = []
    for entry in given.split(","):
        if not _ENTRY.fullmatch(entry.strip()):
            break  # CUDA does not look further either
        found.append(entry.strip())
    return tuple(found)


def default_slots(cores: int, gpus: tuple[str, ...]) -> int:
    """Return how many processes a node has when nobody says it: 1 where there is a GPU, else one per core."""
    return 1 if gpus else cores


def slot_environment(number: int, gpus: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that give slot *number* of a node its GPU, to be set on top of *environment*.

    Slots share GPUs in turn when there are more of them.

    >>> slot_environment(5, ("0", "1"), {})
    {'CUDA_VISIBLE_DEVICES': '1', 'CUDA_DEVICE_ORDER': 'PCI_BUS_ID'}
    """
    return _only((gpus[number % len(gpus)],), environment) if gpus else {}


def node_environment(number: int, nodes: int, gpus: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that give node *number* of several on one machine its share of the GPUs, one at least.

    >>> [node_environment(number, 2, ("0", "1", "2"), {})["CUDA_VISIBLE_DEVICES"] for number in range(2)]
    ['0,2', '1']
    """
    return _only(gpus[number::nodes] or (gpus[number % len(gpus)],), environment) if gpus else {}


def _only(gpus: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that hide all GPUs but these."""
    variables = {VISIBLE: ",".join(gpus)}
    if ORDER not in environment and any(gpu.isdecimal() for gpu in gpus):
        variables[ORDER] = "PCI_BUS_ID"  # by itself CUDA counts the fastest first, nvidia-smi does not
    return variables


@functools.cache
def _listed(program: str) -> tuple[str, ...]:
    """Return the GPUs that nvidia-smi lists, by index; of one that is cut up, its parts by name, which CUDA counts anew."""
    try:
        listing = subprocess.run(
            [program, "-L"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ()  # no driver, say: it comes with images that run elsewhere too
    gpus: list[str] = []
    for line in _LISTED.finditer(listing.stdout):
        if line["mig"] and gpus[-1:] and gpus[-1].isdecimal():
            gpus.pop()  # the whole that these are parts of
        gpus.append(line["mig"] or line["index"])
    return tuple(gpus)
