"""The first process of a machine made of namespaces: hides folders, names the machine, and reaps what others leave.

Called as `first_process.py NAME HIDDEN_FOLDERS KEPT_FOLDERS`, folders joined by colons. Says "ready" when the machine is.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path


def hide(folders, kept):
    """Cover *folders* with empty ones of this machine's own; what it needs to run, *kept*, shows through."""
    held = {folder: os.open(folder, os.O_PATH) for folder in kept}
    for folder in folders:
        os.makedirs(folder, exist_ok=True)
        mode = f"mode={os.stat(folder).st_mode & 0o7777:o}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", mode, "tmpfs", folder], check=True)
        for path, descriptor in held.items():
            if Path(path).is_relative_to(folder):
                os.makedirs(path)
                source = f"/proc/self/fd/{descriptor}"  # the folder itself, which has lost its name
                subprocess.run(["mount", "--no-canonicalize", "--bind", source, path], pass_fds=[descriptor], check=True)
    for descriptor in held.values():
        os.close(descriptor)


def main():
    name, hidden, kept = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    socket.sethostname(name)
    hide(list(filter(None, hidden.split(":"))), list(filter(None, kept.split(":"))))
    print("ready", flush=True)
    while True:
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
        signal.sigwait([signal.SIGCHLD])


main()
