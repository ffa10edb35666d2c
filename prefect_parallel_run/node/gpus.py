"""Assigns the GPUs of a node to its processes, one each, by ``CUDA_VISIBLE_DEVICES``. Imports no framework."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Mapping

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
_ENTRY = re.compile(r"[0-9]+|(GPU|MIG)-[0-9A-Za-z/-]+")
_LISTED = re.compile(r"^GPU (?P<index>[0-9]+):|^\s+MIG .*\(UUID: (?P<mig>MIG-[^)\s]+)\)", re.MULTILINE)
_PATIENCE = 10.0  #: s; nvidia-smi takes seconds when there are many GPUs and no process keeps their driver loaded


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the GPUs that a process with this environment may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    The variable has precedence; without it, these are the GPUs that nvidia-smi lists, or none if it is absent or fails.

    >>> visible_gpus({"CUDA_VISIBLE_DEVICES": "2, GPU-8932f937,-1,3"})
    ('2', 'GPU-8932f937')
    """
    visible = environment.get(VISIBLE)
    if visible is None:
        program = shutil.which("nvidia-smi", path=environment.get("PATH"))
        return _listed(program) if program is not None else ()
    gpus = []
    for entry in visible.split(","):
        if not _ENTRY.fullmatch(entry.strip()):
            break  # CUDA ignores the rest too
        gpus.append(entry.strip())
    return tuple(gpus)


def default_slots(cores: int, gpus: tuple[str, ...]) -> int:
    """Return the default number of processes of a node: 1 if it has a GPU, else one per core."""
    return 1 if gpus else cores


def slot_environment(number: int, gpus: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that assign a GPU to slot *number* of a node, to be added to *environment*.

    GPUs are shared in turn when there are more slots.

    >>> slot_environment(5, ("0", "1"), {})
    {'CUDA_VISIBLE_DEVICES': '1', 'CUDA_DEVICE_ORDER': 'PCI_BUS_ID'}
    """
    return _only((gpus[number % len(gpus)],), environment) if gpus else {}


def node_environment(number: int, nodes: int, gpus: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that assign node *number* of several on one machine its share of the GPUs, at least one.

    >>> [node_environment(number, 2, ("0", "1", "2"), {})["CUDA_VISIBLE_DEVICES"] for number in range(2)]
    ['0,2', '1']
    """
    return _only(gpus[number::nodes] or (gpus[number % len(gpus)],), environment) if gpus else {}


def _only(gpus: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that hide all other GPUs."""
    variables = {VISIBLE: ",".join(gpus)}
    if ORDER not in environment and any(gpu.isdecimal() for gpu in gpus):
        variables[ORDER] = "PCI_BUS_ID"  # by default CUDA counts the fastest first, nvidia-smi does not
    return variables


@functools.cache
def _listed(program: str) -> tuple[str, ...]:
    """Return the GPUs that nvidia-smi lists, by index; for a partitioned GPU its MIG instances, by name."""
    try:
        listing = subprocess.run(
            [program, "-L"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ()  # without a driver, say: images contain nvidia-smi but also run elsewhere
    gpus: list[str] = []
    for line in _LISTED.finditer(listing.stdout):
        if line["mig"] and gpus[-1:] and gpus[-1].isdecimal():
            gpus.pop()  # the GPU that is partitioned into these
        gpus.append(line["mig"] or line["index"])
    return tuple(gpus)
