"""What a script measures, line by line: a JSON file beside the process's logs, of bounded size, and a line in its log."""

import json
import time
from typing import Any, Dict

from .context import EntryScript, current
from .encoding import plain, without_nan
from .failure import without_secrets

_MOST_BYTES = 10_000_000  #: of one process
_LONGEST_IN_LOG = 200  #: characters


class Metrics:
    """Appends to ``<log_dir>/<process>.metrics.jsonl``; what is beyond the bound is left out, and that is said once."""

    def __init__(self, path: str) -> None:
        self._path, self._bytes = path, 0

    def add(self, name: str, **facts: Any) -> None:
        """Keep one measurement: ``value``, or whatever else it consists of, with the mini-batch that was running."""
        if self._bytes > _MOST_BYTES:
            return
        where: Dict[str, Any] = {"time": time.time(), "name": str(name)}
        if current.mini_batch is not None:
            where.update(mini_batch=current.mini_batch, attempt=current.attempt)
        line = without_secrets(_ENCODE(without_nan({**where, **facts})))
        self._write(line)
        words = _ENCODE(without_nan(facts.get("value", facts)))
        words = words if len(words) <= _LONGEST_IN_LOG else f"{words[:_LONGEST_IN_LOG]}…"
        EntryScript.logger.info("%s = %s", name, words)
        if self._bytes > _MOST_BYTES:
            self._write(json.dumps({"note": f"over {_MOST_BYTES} bytes: what this process measures from here on is left out"}))
            EntryScript.logger.warning("%s has over %d bytes; further metrics are left out", self._path, _MOST_BYTES)

    def _write(self, line: str) -> None:
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        with open(self._path, "ab") as file:
            file.write(data)
        self._bytes += len(data)


_ENCODE = json.JSONEncoder(ensure_ascii=False, default=plain, separators=(",", ":")).encode
