"""Write the certificates with which a Dask scheduler, its workers and its clients know each other; keep those that are there.

Run it with ``python certificates.py FOLDER``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from distributed import Security


def write(folder: Path) -> None:
    """Write ``ca.pem``, ``cert.pem`` and ``key.pem``, for their owner alone."""
    if (folder / "ca.pem").exists():
        return
    security = Security.temporary()  # one certificate for all roles, signed by itself
    texts = {
        "key.pem": security.tls_client_key,
        "cert.pem": security.tls_client_cert,
        "ca.pem": security.tls_ca_file,  # last: when it is there, the others are
    }
    for name, text in texts.items():
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(file, "w") as opened:
            opened.write(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
