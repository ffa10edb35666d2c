"""Engines in processes of their own: silent, watched, and gone with all that came of them.

An engine's process imports once and is then told, round by round, which function of the suite to call; what it prints goes to
its log, which is shown when it fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from family import Family
from measure import EngineFailedError

_SERVE = Path(__file__).with_name("serve.py")
_TEMPORARY = ("TMPDIR", "DASK_TEMPORARY_DIRECTORY", "RAY_TMPDIR", "SPARK_LOCAL_DIRS")  #: so that nothing is left elsewhere
_GOODBYE = 20.0  #: s for a process to end once nobody asks it any more
_TAIL = 2_000  #: bytes of a log that are shown
_GLANCE = 0.1  #: s between two looks at an engine that is watched


class Engine:
    """One process that calls functions of the suite.

    Args:
        name: Shown when it fails.
        log: Where its output goes.
        patience: Seconds for one call.
    """

    def __init__(self, name: str, log: Path, patience: float = 900.0) -> None:
        self.name, self._log, self._patience = name, log, patience
        ours, theirs = os.pipe(), os.pipe()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(_SERVE), str(theirs[0]), str(ours[1])],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs[0], ours[1]),
                env={**os.environ, "PYTHONPATH": _path(), **dict.fromkeys(_TEMPORARY, str(log.parent))},
                start_new_session=True,
            )
        os.close(theirs[0])
        os.close(ours[1])
        self._answers, self._asks = ours[0], os.fdopen(theirs[1], "w")
        self._said = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, function: str, *arguments: Any, watch: Family | None = None) -> Any:
        """Return what ``module:function`` answers; *watch* is shown the process's family now and then."""
        self._asks.write(json.dumps([function, arguments]) + "\n")
        self._asks.flush()
        deadline = time.monotonic() + self._patience
        while b"\n" not in self._said:
            if watch is not None:
                watch.look()
            if time.monotonic() > deadline:
                raise EngineFailedError(f"{self.name} did not answer within {self._patience:g} s\n{self._last_words()}")
            if select.select([self._answers], [], [], _GLANCE if watch is not None else 5.0)[0]:
                block = os.read(self._answers, 1 << 16)
                if not block:
                    raise EngineFailedError(f"{self.name} ended\n{self._last_words()}")
                self._said += block
        line, _, self._said = self._said.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise EngineFailedError(f"{self.name} failed\n{answer['error']}\n{self._last_words()}")
        return answer["value"]

    def close(self) -> None:
        """End the process, and what it may have left in its session."""
        self._asks.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GOODBYE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._answers)

    def _last_words(self) -> str:
        return self._log.read_bytes()[-_TAIL:].decode(errors="replace")


def _path() -> str:
    """Return PYTHONPATH for an engine and the workers it starts: the suite's modules first."""
    return os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))


class Engines:
    """Engines by name, started when they are first asked."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._engines: dict[str, Engine] = {}

    def call(self, name: str, function: str, *arguments: Any, watch: Callable[[int], Family] | None = None) -> Any:
        """Have the engine *name* call a function; *watch* makes, from its process id, who watches."""
        if name not in self._engines:
            self._engines[name] = Engine(name, self._place / f"engine-{len(self._engines)}-{time.monotonic_ns()}.log")
        engine = self._engines[name]
        return engine.call(function, *arguments, watch=None if watch is None else watch(engine.pid))

    def end(self, name: str) -> None:
        """End one of them; it is started anew when it is asked again."""
        self._engines.pop(name).close()

    def close(self) -> None:
        """End all of them."""
        while self._engines:
            self._engines.popitem()[1].close()
