"""Processes as they are found on a machine where any of them may end at any moment."""

import re
import time

import psutil

#: What Python prints when the exception of a signal is lost in a finalizer.
IGNORED = re.compile(r"Exception ignored in.*?(KeyboardInterrupt|TerminationSignal)", re.DOTALL)


def interrupt(send, has_effect, printed):
    """Call *send*, which signals a process, and wait for the effect; send again if *printed()* shows that Python ignored it."""
    send()
    deadline, is_ignored = time.monotonic() + 300, False
    while not has_effect():
        assert time.monotonic() < deadline, printed()
        if not is_ignored and IGNORED.search(printed()):
            is_ignored = True
            send()
        time.sleep(0.02)


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
