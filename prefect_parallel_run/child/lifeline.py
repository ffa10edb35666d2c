"""Has the kernel kill this process when the process of its slot exits or is killed, even while the script is busy.

It backs up the node's reaper, which may be killed too. The signal comes from a pipe whose other end only the slot's process
holds. prctl(PR_SET_PDEATHSIG) is not suitable: it sends its signal when the *thread* that started this process ends, which is
soon after the start; and ctypes, which it needs, costs 10 ms of every process's start.
"""

import fcntl
import os
import select
import signal


def hold(descriptor: int) -> None:
    """Have the kernel send SIGKILL to this process when the other end of the pipe is closed; nothing is ever written to it."""
    os.set_inheritable(descriptor, False)
    if hasattr(fcntl, "F_SETSIG"):  # Linux
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
    closed = select.poll()
    closed.register(descriptor, 0)
    if closed.poll(0):  # the slot's process had exited before the signal was set up
        os._exit(0)
