"""Writes a script's metrics to a JSON lines file of limited size beside the process's logs, and to its log."""

import json
import time
from typing import Any, Dict

from .entry_script import EntryScript, current
from .failure import without_secrets
from .rows_jsonl import plain, without_nan

_MOST_BYTES = 10_000_000  #: of one process
_LONGEST_IN_LOG = 200  #: characters


class Metrics:
    """Appends to ``<log_dir>/<process>.metrics.jsonl``; metrics beyond the limit are dropped, with one warning."""

    def __init__(self, path: str) -> None:
        self._path, self._bytes = path, 0

    def add(self, name: str, **fields: Any) -> None:
        """Write one metric: ``value`` or other fields, with the running mini-batch."""
        if self._bytes > _MOST_BYTES:
            return
        context: Dict[str, Any] = {"time": time.time(), "name": str(name)}
        if current.mini_batch is not None:
            context.update(mini_batch=current.mini_batch, attempt=current.attempt)
        line = without_secrets(_ENCODE(without_nan({**context, **fields})))
        self._write(line)
        text = _ENCODE(without_nan(fields.get("value", fields)))
        text = text if len(text) <= _LONGEST_IN_LOG else f"{text[:_LONGEST_IN_LOG]}…"
        EntryScript.logger.info("%s = %s", name, text)
        if self._bytes > _MOST_BYTES:
            self._write(json.dumps({"note": f"more than {_MOST_BYTES} bytes: further metrics of this process are dropped"}))
            EntryScript.logger.warning("%s has more than %d bytes; further metrics are dropped", self._path, _MOST_BYTES)

    def _write(self, line: str) -> None:
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        with open(self._path, "ab") as file:
            file.write(data)
        self._bytes += len(data)


_ENCODE = json.JSONEncoder(ensure_ascii=False, default=plain, separators=(",", ":")).encode
