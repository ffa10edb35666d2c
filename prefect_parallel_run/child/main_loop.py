"""The life of a child: surroundings, script, init(), mini-batches, shutdown()."""

import faulthandler
import importlib
import logging
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any, Dict, Iterator

from .azureml_environment import surround
from .azureml_import_hook import offer_names
from .channel import Channel
from .context import EntryScript
from .failure import describe, keep_secret, without_secrets
from .lifeline import hold
from .part_file import Part
from .runner import MiniBatchRunner
from .script import Script, load
from .shared_memory import SharedStatus

_LAST_WORDS = 2_000  #: bytes


def main(inbox: int, outbox: int, bell: int, lifeline: int, board: int, stacks: int) -> None:
    """Serve the slot at the other end of these descriptors until it says shutdown, or closes its end."""
    hold(lifeline)
    channel = Channel(inbox, outbox, bell)
    for descriptor in (board, stacks):
        os.set_inheritable(descriptor, False)
    faulthandler.register(signal.SIGUSR2, file=stacks, all_threads=True, chain=False)
    messages = channel.messages()
    settings: Dict[str, Any] = next(messages)
    _surround(settings)
    script = _start(channel, messages, settings)
    channel.send(["ready"])
    part = Part(settings["part"]) if settings["part"] else None
    shared = SharedStatus(board)
    worker = MiniBatchRunner(script, shared, part, settings)
    if _serve(messages, channel, worker, shared):
        problem = _shutdown(script)
        if problem and worker.leaving:  # the slot has other things to do than to tell it
            EntryScript.logger.error("shutdown() failed: %s", problem)
        channel.send(["bye", problem])
        channel.ring()
    else:  # the slot is gone: so is the run, and nothing the script still does could count
        os._exit(0)


def _serve(messages: Iterator[Any], channel: Channel, worker: MiniBatchRunner, board: SharedStatus) -> bool:
    """Answer mini-batches; True when asked to shut down, by slot or script, False when the slot is gone."""
    for message in messages:
        if message == "shutdown":
            return True
        if message[0] == "sleep":  # the process before was asked to
            worker.not_before = message[1]
            continue
        channel.send(worker.attempt(*message))
        board.rest()
        if worker.leaving:
            channel.send(["leave", worker.leaving, worker.not_before])
            return True
    return False


def _start(channel: Channel, messages: Iterator[Any], settings: Dict[str, Any]) -> Script:
    """Import the script and, when told to, call its init(); a failure is told with its traceback, and ends the process."""
    stage = "import"
    for module in settings["modules"]:  # else the first mini-batch would seem to be slow
        with suppress(ImportError):  # told by the mini-batch that needs it
            importlib.import_module(module)
    try:
        script = load(settings["script"], settings["source"], settings["arguments"])
        channel.send(["imported"])
        if next(messages, None) is None:  # the slot is gone before it wanted us
            os._exit(0)
        stage = "init"
        channel.send(["init"])
        channel.ring()
        script.init()
    except BaseException as error:  # noqa: BLE001  SystemExit in a script's import is a failure to start like any other
        failure = describe(error)
        said = [failure.text]
        if isinstance(error, SystemExit) and not isinstance(error.code, str):
            said.append(_last_line(settings))  # argparse, say, has told there what is wrong
        channel.send(["start_failed", stage, failure.type, ": ".join(filter(None, said)), failure.traceback])
        channel.ring()
        os._exit(1)
    return script


def _last_line(settings: Dict[str, Any]) -> str:
    """Return the last line that this process has written to stderr, or an empty text."""
    try:
        with open(os.path.join(settings["log_dir"], f"{settings['process']}.stderr.txt"), "rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _LAST_WORDS, 0))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return without_secrets(next((line.strip() for line in reversed(lines) if line.strip()), ""))


def _shutdown(script: Script) -> str:
    """Call the script's shutdown() and return what went wrong, or an empty text."""
    try:
        script.shutdown()
    except BaseException as error:  # noqa: BLE001  the rows are safe by now: told as a warning, whatever it was
        return describe(error).traceback
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return ""


def _surround(settings: Dict[str, Any]) -> None:
    """Set up what the script finds around it."""
    os.chdir(settings["scratch"])
    keep_secret(os.environ.get(name, "") for name in settings["secrets"])
    EntryScript.agent_name, EntryScript.dir = settings["process"], os.path.dirname(settings["script"])
    EntryScript.working_dir = settings["scratch"]
    EntryScript.log_dir = settings["log_dir"]
    EntryScript.output_dir = settings["output"]
    EntryScript.side_inputs = dict(settings["side_inputs"])
    logger = EntryScript.logger
    logger.setLevel(settings["logging_level"])
    logger.propagate = False
    handler = logging.FileHandler(settings["log_file"], encoding="utf-8", errors="backslashreplace", delay=True)
    formatter = _Formatter("%(asctime)s.%(msecs)03dZ %(process)d %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    surround(settings)
    offer_names()


class _Formatter(logging.Formatter):
    """Leaves secrets out of log lines."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))
