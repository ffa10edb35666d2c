"""Main loop of a child: set up the process, import the script, call init(), run mini-batches, call shutdown()."""

import fcntl
import importlib
import logging
import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import Any, Dict, Iterator

from .azureml_stand_ins import configure_stand_ins
from .channel import Channel, SharedStatus
from .entry_script import EntryScript, Script, current, load
from .failure import describe, keep_secret, without_secrets
from .rows import row_format
from .runner import MiniBatchRunner
from .stacks import write_on_signal

_STDERR_END = 2_000  #: bytes


def main(inbox: int, outbox: int, bell: int, lifeline: int, status: int, stacks: int) -> None:
    """Serve the slot at the other end of these descriptors until it sends shutdown or closes its end."""
    _exit_with_slot(lifeline)
    channel = Channel(inbox, outbox, bell)
    for descriptor in (status, stacks):
        os.set_inheritable(descriptor, False)
    write_on_signal(stacks)
    messages = channel.messages()
    settings: Dict[str, Any] = next(messages)
    _set_up(settings)
    script = _start(channel, messages, settings)
    channel.send(["ready"])
    shared = SharedStatus(status)
    runner = MiniBatchRunner(script, shared, settings, channel.next_message)
    if _serve(messages, channel, runner, shared):
        problem = _shutdown(script)
        if problem and runner.leaving:  # the slot does not report it
            EntryScript.logger.error("shutdown() failed: %s", problem)
        channel.send(["bye", problem])
        channel.ring()
    else:  # the slot has exited and so has the run: the script's work no longer counts
        os._exit(0)


def _exit_with_slot(descriptor: int) -> None:
    """Have the kernel kill this process when the slot's process exits and so closes its end of the pipe, even during run().

    It backs up the node's reaper, which may be killed too. prctl(PR_SET_PDEATHSIG) is not suitable: it sends its signal when
    the *thread* that started this process ends, which is soon after the start; and ctypes, which it needs, costs 10 ms of every
    process's start.
    """
    os.set_inheritable(descriptor, False)
    if hasattr(fcntl, "F_SETSIG"):  # Linux
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
    closed = select.poll()
    closed.register(descriptor, 0)
    if closed.poll(0):  # the slot's process had exited before the signal was set up
        os._exit(0)


def _serve(messages: Iterator[Any], channel: Channel, runner: MiniBatchRunner, status: SharedStatus) -> bool:
    """Answer mini-batches; return True for a shutdown requested by slot or script, False when the slot has exited."""
    for message in messages:
        if message == "shutdown":
            return True
        if message[0] == "sleep":  # the script asked the previous process to pause
            runner.not_before = message[1]
            continue
        channel.send(runner.attempt(*message))
        status.set_idle()
        if runner.leaving:
            channel.send(["leave", runner.leaving, runner.not_before])
            return True
    return False


def _start(channel: Channel, messages: Iterator[Any], settings: Dict[str, Any]) -> Script:
    """Import the script and, on request, call its init(); after a failure, send its traceback and exit."""
    stage = "import"
    for module in settings["modules"]:  # otherwise the first mini-batch would be slow
        with suppress(ImportError):  # reported by the mini-batch that needs it
            importlib.import_module(module)
    row_format(settings["format"])
    try:
        script = load(settings["script"], settings["source"], settings["arguments"], settings["function"], settings["hooks"])
        channel.send(["imported"])
        if next(messages, None) is None:  # the slot exited before it needed this process
            os._exit(0)
        stage = "init"
        channel.send(["init"])
        channel.ring()
        script.init()
    except BaseException as error:  # noqa: BLE001  SystemExit while importing a script is a failed start too
        failure = describe(error)
        details = [failure.text]
        if isinstance(error, SystemExit) and not isinstance(error.code, str):
            details.append(_last_stderr_line(settings))  # the message of argparse, for instance
        channel.send(["start_failed", stage, failure.type, ": ".join(filter(None, details)), failure.traceback])
        channel.ring()
        os._exit(1)
    return script


def _last_stderr_line(settings: Dict[str, Any]) -> str:
    try:
        with open(os.path.join(settings["log_dir"], f"{settings['process']}.stderr.txt"), "rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _STDERR_END, 0))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return without_secrets(next((line.strip() for line in reversed(lines) if line.strip()), ""))


def _shutdown(script: Script) -> str:
    try:
        script.shutdown()
    except BaseException as error:  # noqa: BLE001  the rows are committed by now, so any error is only a warning
        return describe(error).traceback
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return ""


def _set_up(settings: Dict[str, Any]) -> None:
    """Set up the working directory, secrets, EntryScript, logging and Azure's names for the script."""
    os.chdir(settings["scratch"])
    keep_secret(os.environ.get(name, "") for name in settings["secrets"])
    EntryScript.agent_name, EntryScript.dir = settings["process"], os.path.dirname(settings["script"])
    EntryScript.working_dir = settings["scratch"]
    EntryScript.log_dir = settings["log_dir"]
    EntryScript.output_dir = settings["output"]
    EntryScript.side_inputs = dict(settings["side_inputs"])
    current.is_script = True
    logger = EntryScript.logger
    logger.setLevel(settings["logging_level"])
    logger.propagate = False
    handler = logging.FileHandler(settings["log_file"], encoding="utf-8", errors="backslashreplace", delay=True)
    formatter = _Formatter("%(asctime)s.%(msecs)03dZ %(process)d %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    configure_stand_ins(settings)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))
