"""A PostgreSQL server in a temporary folder, which only loopback reaches."""

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from .ports import free_port

PASSWORD = "planted p@ss/w:rd#é"  # every character that has a meaning in a URI
REFERENCE = "{{ prefect.blocks.secret.database-password }}"


def programs():
    """The folder of Debian's programs; None without them."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    return next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


class Server:
    """Listens on a free port; asks for a password."""

    def __init__(self, folder, port):
        self.folder, self.port = folder, port
        self.uri = f"postgresql://tester:{REFERENCE}@127.0.0.1:{port}/postgres"
        self.whole_uri = self.uri.replace(REFERENCE, quote(PASSWORD, safe=""))  # what a block may hold
        self.origin = f"postgresql://127.0.0.1:{port}/postgres"

    def run(self, *statements):
        """Run statements, each in its own transaction, and return the rows of the last one."""
        from adbc_driver_postgresql import dbapi

        with dbapi.connect(self.whole_uri, autocommit=True) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def server():
    """Start a server, as another user if this one is root, whom PostgreSQL refuses; stop it and delete its files."""
    user = pwd.getpwnam("nobody") if os.getuid() == 0 else None
    options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    folder = Path(tempfile.mkdtemp(prefix="ppr-pg-"))
    if user:
        os.chown(folder, user.pw_uid, user.pw_gid)

    def call(name, *arguments):
        log = folder.with_suffix(".log")
        with log.open("w") as output:  # not a pipe: the server would keep it open
            command = [programs() / name, "-D", folder / "data", *arguments]
            done = subprocess.run(command, stdout=output, stderr=output, cwd="/", timeout=300, check=False, **options)
        text = log.read_text()
        log.unlink()
        assert done.returncode == 0, text

    try:
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        authentication = ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
        call("initdb", "-U", "tester", "--no-sync", "--encoding=UTF8", "--locale=C", *authentication)
        port = free_port()
        settings = f"-F -p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        call("pg_ctl", "--wait", "--timeout=120", "-l", folder / "log", "-o", settings, "start")
        try:
            yield Server(folder, port)
        finally:
            call("pg_ctl", "--wait", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
