"""Machines to test on, made of Linux namespaces: processes, host name and, if wanted, network and folders of their own.

A machine is what its first process holds together: when that is killed, the kernel ends everything on the machine and takes
its network down. It dies with the test session, however that ends.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from ..conftest import wait_until

ROOT = Path(__file__).parents[3]
TOOLS = ("unshare", "nsenter", "setpriv", "ip", "mount")


@functools.cache
def lacking() -> str | None:
    """Why there can be no such machines here; None when there can."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        return f"no {', '.join(missing)} here (Debian packages iproute2 and util-linux)"
    trial = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    tried = subprocess.run(trial, capture_output=True, text=True, check=False)
    return f"this user may make no namespaces: {tried.stderr.strip()}" if tried.returncode else None


class Program:
    """A program that a test started; its output goes to *log*."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str] | None = None, entered: bool = False) -> None:
        self.log, self.entered = log, entered
        with log.open("ab") as file:
            env = {**os.environ, **(environment or {})}
            self.outer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env)

    @property
    def process(self) -> psutil.Process:
        """The program itself, which nsenter starts as its child."""
        outer = psutil.Process(self.outer.pid)
        return wait_until(lambda: outer.children() if self.runs else [outer])[0] if self.entered else outer

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def runs(self) -> bool:
        return self.outer.poll() is None

    def tree(self) -> list[psutil.Process]:
        """The program and all that it started, oldest first."""
        with suppress(psutil.NoSuchProcess):
            return [self.process, *self.process.children(recursive=True)] if self.runs else []
        return []

    def stop(self) -> None:
        """SIGSTOP to the program and all that it started, as if its machine hung."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        self._send(signal.SIGCONT)
        self.outer.send_signal(signal.SIGCONT)  # nsenter stops with its child

    def kill(self) -> None:
        """SIGKILL to the program and all that it started; nsenter ends by itself, when it has buried its child."""
        self._send(signal.SIGKILL)
        self.outer.send_signal(signal.SIGCONT)
        self.outer.wait()

    def terminate(self) -> None:
        """SIGTERM to the program alone, and wait for its end."""
        with suppress(psutil.NoSuchProcess):
            self.process.terminate()
        self.outer.wait()

    def _send(self, number: int) -> None:
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


class ThisMachine:
    """Where the tests themselves run; what they start here ends with `close`."""

    entering: tuple[str, ...] = ()  #: the command that takes another command onto the machine

    def __init__(self, name: str, folder: Path, address: str = "127.0.0.1") -> None:
        self.name, self.folder, self.address = name, folder, address
        self.programs: list[Program] = []

    def start(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> Program:
        """Start a program, whose output goes to a log that has its *name*."""
        log = self.folder / f"{self.name}-{name}.log"
        program = Program([*self.entering, *command], log, environment, entered=bool(self.entering))
        self.programs.append(program)
        return program

    def run(self, *command: str) -> str:
        """Return what a command prints; it must succeed."""
        ended = subprocess.run([*self.entering, *command], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, (command, ended.stdout, ended.stderr)
        return ended.stdout

    def close(self) -> None:
        for program in self.programs:
            program.kill()


def needed() -> list[str]:
    """Return the folders that Python and this package lie in: every machine has them."""
    folders = [ROOT, *map(Path, (sys.prefix, sys.base_prefix, *sys.path))]
    found: list[Path] = []
    for folder in sorted({folder.resolve() for folder in folders if folder.is_dir()}):
        if not any(folder.is_relative_to(outer) for outer in found):
            found.append(folder)
    return list(map(str, found))


class Machine(ThisMachine):
    """A machine of its own processes and name; with *network*, of its own network too.

    Args:
        folder: Where logs go, on this machine.
        hidden: Folders that the machine has for itself: they are empty there, and what it writes is seen nowhere else.
    """

    def __init__(self, name: str, folder: Path, *, network: bool = False, hidden: list[Path] | None = None) -> None:
        super().__init__(name, folder)
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--uts", "--ipc"]
        command += ["--net"] if network else []
        command += ["--fork", "--kill-child", "--mount-proc", sys.executable, str(Path(__file__).with_name("first_process.py"))]
        command += [name, ":".join(str(path) for path in hidden or []), ":".join(needed())]
        self.holder = Program(command, folder / f"{name}.log")
        try:
            wait_until(self._is_ready)
            self.init: int = wait_until(psutil.Process(self.holder.outer.pid).children)[0].pid
            self.entering = ("nsenter", "--target", str(self.init), "--mount", "--pid", "--uts", "--ipc", "--net", "--")
        except BaseException:
            self.holder.kill()
            raise

    def _is_ready(self) -> bool:
        assert self.holder.runs, self.holder.output
        return "ready" in self.holder.output

    def path(self, path: Path | str) -> Path:
        """Return by what name this machine sees what the other one calls *path*."""
        return Path(f"/proc/{self.init}/root") / str(path).lstrip("/")

    def processes(self) -> list[psutil.Process]:
        """All processes of the machine but its first."""
        mine = os.readlink(f"/proc/{self.init}/ns/pid")
        found = []
        for process in psutil.process_iter():
            with suppress(OSError, psutil.NoSuchProcess):
                gone = process.pid == self.init or process.status() == psutil.STATUS_ZOMBIE
                if not gone and os.readlink(f"/proc/{process.pid}/ns/pid") == mine:
                    found.append(process)
        return found

    def close(self) -> None:
        """End the machine and everything on it."""
        self.holder.kill()
        super().close()
