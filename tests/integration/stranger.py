"""Another user of the machine, who wants code of his own to run as somebody else.

Reads a JSON object from standard input: ``user``, whose ports are wanted; ``ports``, which of them to attack; ``folder``, where
code that runs makes a folder; ``protocols``, those to try; ``patience``, seconds to wait for a connection and for an answer,
since what does not speak Dask's language at all may never answer.
Writes one: ``found``, the ports; ``answers``, what came of each attempt.
Started as root, it gives up all rights before it begins: an interpreter in another user's home could not be started without.
What is imported at the first connection could not be read from there afterwards, so it first attacks a server of its own.
"""

import asyncio
import json
import os
import ssl
import sys

from distributed import rpc
from distributed.core import Server
from distributed.protocol.pickle import dumps

from prefect_parallel_run.compute.certificates import new_credentials

NOBODY = 65534
LISTENS = "0A"
OPERATIONS = ("run_function", "run")  #: of a scheduler, and of a worker


def ports_of(user):
    """Ports at which a user's processes listen, as the system tells everybody."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as lines:
            for fields in map(str.split, lines):
                if fields[3] == LISTENS and int(fields[7]) == user:
                    yield int(fields[1].rpartition(":")[2], 16)


def ways():
    """What one may connect with who was given nothing."""
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.check_hostname, anonymous.verify_mode = False, ssl.CERT_NONE
    forged = new_credentials().security().get_connection_args("client")
    forged["ssl_context"].verify_mode = ssl.CERT_NONE
    yield "tcp", {}
    yield "tls", {"ssl_context": anonymous, "require_encryption": True}
    yield "tls", forged


async def attempt(address, arguments, operation, folder, patience):
    words = {"function": dumps(os.mkdir), "args": dumps((folder,)), "kwargs": dumps({}), "wait": True}
    try:
        async with rpc(address, connection_args=arguments, timeout=patience) as server:
            return repr(await asyncio.wait_for(getattr(server, operation)(**words), patience))
    except Exception as error:  # noqa: BLE001  whatever it is, it is told
        return f"refused: {type(error).__name__}: {error}"


async def attack(ports, folder, protocols, patience):
    attempts = {}
    for port in ports:
        for number, (protocol, arguments) in enumerate(ways()):
            for operation in OPERATIONS if protocol in protocols else ():
                key = f"{port}.{number}.{operation}"
                address = f"{protocol}://127.0.0.1:{port}"
                attempts[key] = attempt(address, arguments, operation, os.path.join(folder, key), patience)
    return dict(zip(attempts, await asyncio.gather(*attempts.values()), strict=True))


async def rehearse():
    """Have everything imported that an attack needs."""
    server = Server({})
    await server.listen("tcp://127.0.0.1:0")
    port = int(server.address.rpartition(":")[2])
    await attack(ports=[port], folder="", protocols=["tcp", "tls"], patience=5)
    await server.close()


if __name__ == "__main__":
    given = json.load(sys.stdin)
    asyncio.run(rehearse())
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    found = sorted(set(ports_of(given.pop("user"))))
    json.dump({"found": found, "answers": asyncio.run(attack(**given))}, sys.stdout)
