"""Processes as they are found on a machine where any of them may end at any moment."""

import re
import time

import psutil

#: What Python prints when the exception of a signal is lost in a finalizer.
IGNORED = re.compile(r"Exception ignored in.*?(KeyboardInterrupt|TerminationSignal)", re.DOTALL)


def interrupt(process, send, printed):
    """Call *send*, which signals a process, and again if Python has ignored the signal, as *printed()* shows."""
    send()
    deadline = time.monotonic() + 300
    while process.poll() is None and not IGNORED.search(printed()):
        assert time.monotonic() < deadline, printed()
        time.sleep(0.02)
    if process.poll() is None:
        send()


def command_line(process: psutil.Process) -> str:
    """Its words with blanks between; none once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # a zombie's words are gone too
        return ""


def lives(process: psutil.Process) -> bool:
    """Whether it has not ended; a zombie has."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
