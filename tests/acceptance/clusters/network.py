"""Hosts that share nothing but a line: each a Machine with an address, folders of its own, and a plug to pull."""

from __future__ import annotations

import itertools
import subprocess
from contextlib import ExitStack, closing
from pathlib import Path

import psutil

from .machines import Machine, ThisMachine


def ip(*arguments: str, inside: int | None = None) -> None:
    """Run iproute2's ip, in the network of the process *inside*."""
    there = [] if inside is None else ["nsenter", "--target", str(inside), "--net", "--"]
    ended = subprocess.run([*there, "ip", *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, (arguments, ended.stderr)


class Host(Machine):
    """A machine behind a port of the network's switch."""

    def __init__(self, name: str, folder: Path, switch: int, address: str, hidden: list[Path]) -> None:
        super().__init__(name, folder, network=True, hidden=hidden)
        self.switch, self.address, self.port = switch, address, f"to-{name}"
        with ExitStack() as stack:
            stack.callback(self.close)  # a host that cannot be plugged in
            self.plug_in()
            stack.pop_all()

    def plug_in(self) -> None:
        switch, inside = str(self.switch), str(self.init)
        ip("link", "add", self.port, "netns", switch, "type", "veth", "peer", "name", "eth0", "netns", inside)
        ip("address", "add", f"{self.address}/24", "dev", "eth0", inside=self.init)
        for device in ("lo", "eth0"):
            ip("link", "set", device, "up", inside=self.init)
        ip("link", "set", self.port, "up", inside=self.switch)
        self.mend()

    def cut(self) -> None:
        """Unplug the host at the switch: packets vanish both ways, and nobody is told."""
        ip("link", "set", self.port, "nomaster", inside=self.switch)

    def mend(self) -> None:
        ip("link", "set", self.port, "master", "switch", inside=self.switch)


def make_line(switch: int) -> tuple[str, str]:
    """Join this machine to the switch; return the name of the line here, and of the subnet: the first that no device has.

    Test sessions may run side by side: who makes the line of that name, has the subnet.
    """
    addresses = [address.address for device in psutil.net_if_addrs().values() for address in device]
    for number in range(256):
        line, subnet = f"ppr-{number}", f"10.99.{number}"
        command = ["ip", "link", "add", line, "type", "veth", "peer", "name", "here", "netns", str(switch)]
        if any(address.startswith(f"{subnet}.") for address in addresses):
            continue
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode == 0:
            return line, subnet
        assert "File exists" in made.stderr, made.stderr
    raise AssertionError("all subnets of 10.99 are taken")


class Network(ThisMachine):
    """A switch with this machine at one of its ports: what starts on the network starts here, and *address* is where."""

    def __init__(self, folder: Path) -> None:
        super().__init__("here", folder)
        self.numbers = itertools.count(2)
        self.stack = ExitStack()
        with ExitStack() as stack:  # half a network is taken down again
            self.switch = stack.enter_context(closing(Machine("switch", folder, network=True))).init
            ip("link", "add", "switch", "type", "bridge", inside=self.switch)
            ip("link", "set", "switch", "up", inside=self.switch)
            line, self.subnet = make_line(self.switch)
            self.address = f"{self.subnet}.1"
            stack.callback(ip, "link", "delete", line)
            ip("link", "set", "here", "master", "switch", "up", inside=self.switch)
            ip("address", "add", f"{self.address}/24", "dev", line)
            ip("link", "set", line, "up")
            self.stack = stack.pop_all()

    def host(self, name: str, hidden: list[Path]) -> Host:
        """Plug in a host whose folders *hidden* are its own."""
        host = Host(name, self.folder, self.switch, f"{self.subnet}.{next(self.numbers)}", hidden)
        return self.stack.enter_context(closing(host))

    def close(self) -> None:
        super().close()
        self.stack.close()
