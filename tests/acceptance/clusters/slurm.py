"""A real SLURM cluster on this machine: munged, slurmctld, and a slurmd for each of its logical nodes."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from contextlib import ExitStack, closing
from pathlib import Path

from ...ports import free_port
from ..conftest import wait_until
from .machines import Machine, Program

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")


def lacking() -> str | None:
    """Why there can be no SLURM here; None when there can."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    missing = [program for program in PROGRAMS if not shutil.which(program, path=path)]
    if missing:
        return f"no {', '.join(missing)} here (Debian packages slurm-wlm and munge)"
    return None if os.geteuid() == 0 else "SLURM's daemons run jobs only when root starts them"


CONFIG = """
ClusterName=test
SlurmctldHost={machine}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
KillWait=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={node} NodeHostname={machine} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=8000\n"


def all_run(daemons: list[Program]) -> bool:
    for daemon in daemons:
        assert daemon.runs, daemon.output
    return True


class Slurm:
    """Two logical nodes of four processors each, more than there are; all daemons and jobs on a machine of their own.

    Commands reach it while *environment* is set.
    """

    nodes = ("node-1", "node-2")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "slurm.conf"
        self.environment = {"SLURM_CONF": str(self.config)}
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        (folder / "state").mkdir()
        ports = [free_port() for _ in ("slurmctld", *self.nodes)]
        facts = {"machine": "slurm", "folder": folder, "ports": ports}
        nodes = (NODE.format(node=node, port=port, **facts) for node, port in zip(self.nodes, ports[1:], strict=True))
        self.config.write_text("".join(nodes) + CONFIG.format(**facts))
        with ExitStack() as stack:  # half a cluster is taken down again
            self.machine = stack.enter_context(closing(Machine("slurm", folder)))
            self._start_daemons(key)
            self.stack = stack.pop_all()

    def _start_daemons(self, key: Path) -> None:
        files = {"key-file": key} | {
            name: self.folder / f"munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")
        }
        munged = ["/usr/sbin/munged", "--foreground", *(f"--{name}={path}" for name, path in files.items())]
        munged += ["--force"]  # temporary folders are closed to other users; none asks it
        daemons = [self.machine.start("munged", munged)]
        wait_until(lambda: all_run(daemons) and (self.folder / "munge.socket").exists())
        daemons.append(self.machine.start("slurmctld", ["/usr/sbin/slurmctld", "-D"], self.environment))
        for node in self.nodes:
            (self.folder / f"spool-{node}").mkdir()
            daemons.append(self.machine.start(node, ["/usr/sbin/slurmd", "-D", "-N", node], self.environment))
        wait_until(lambda: all_run(daemons) and self._is_up())

    def _is_up(self) -> bool:
        environment = {**os.environ, **self.environment}
        told = subprocess.run(["sinfo", "-h", "-N", "-o", "%t"], env=environment, capture_output=True, text=True, check=False)
        return told.stdout.split() == ["idle"] * len(self.nodes)

    def run(self, *command: str) -> str:
        """Return what one of SLURM's commands prints; it must succeed."""
        ended = subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, (command, ended.stdout, ended.stderr)
        return ended.stdout

    def jobs(self) -> list[str]:
        """Return name, state and node of the jobs that are not over yet."""
        return self.run("squeue", "-h", "-o", "%j %T %N").splitlines()

    def close(self) -> None:
        self.stack.close()
