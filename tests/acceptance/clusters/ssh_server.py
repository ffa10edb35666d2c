"""A real sshd on loopback, for this test alone: its keys, its port, one key that may log in."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

from ...ports import free_port
from ...processes import command_line
from ..conftest import wait_until
from .machines import Machine

SSHD = "/usr/sbin/sshd"  # it must be called by its whole name, and is not in everybody's PATH


def lacking() -> str | None:
    """Why there can be no sshd here; None when there can."""
    if not Path(SSHD).exists() or not shutil.which("ssh-keygen"):
        return "no sshd here (Debian package openssh-server)"
    return None if os.geteuid() == 0 else "sshd lets users in only when root starts it"


class SSHServer:
    """sshd on a machine that has its processes, name and /run for itself: what is started over SSH ends with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client_key, host_key = folder / "client", folder / "host"
        for key in (self.client_key, host_key):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        self.port = free_port()
        shared = {name: os.environ[name] for name in ("PPR_TEST_SESSION", "PYTHONPATH") if name in os.environ}
        settings = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": host_key,
            "AuthorizedKeysFile": self.client_key.with_suffix(".pub"),
            "StrictModes": "no",  # temporary folders are anybody's
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "UsePAM": "no",
            "UseDNS": "no",
            "PidFile": "none",
            "MaxStartups": "100",
            **({"SetEnv": " ".join(f"{name}={value}" for name, value in shared.items())} if shared else {}),
        }
        config = folder / "sshd_config"
        config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        self.machine = Machine("reached-by-ssh", folder, hidden=[Path("/run")])
        try:
            self.machine.run("mkdir", "-m", "755", "/run/sshd")
            self.server = self.machine.start("sshd", [SSHD, "-D", "-e", "-f", str(config)])
            wait_until(self._answers)
        except BaseException:
            self.machine.close()
            raise

    def _answers(self) -> bool:
        assert self.server.runs, self.server.output
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def connect_options(self) -> dict[str, object]:
        """What asyncssh, and so SSHCluster, needs to log in."""
        return {"port": self.port, "username": "root", "known_hosts": None, "client_keys": [str(self.client_key)]}

    def programs(self) -> list[str]:
        """Command lines of what was started over SSH and still runs."""
        lines = [command_line(process) for process in self.machine.processes()]
        return [line for line in lines if line and "sshd" not in line]

    def close(self) -> None:
        self.machine.close()
