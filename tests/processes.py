"""Processes as they are found on a machine where any of them may end at any moment."""

import psutil


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
