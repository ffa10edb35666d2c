"""Free ports for servers that must know their port before they start."""

import secrets
import socket
from contextlib import suppress
from pathlib import Path

FIRST = 10_000


def free_port() -> int:
    """Return a free port of loopback, which the system gives to no other program if its own range starts above port 20,000."""
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    end = first_given if first_given > 2 * FIRST else 1 << 16
    while True:
        port = FIRST + secrets.randbelow(end - FIRST)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
