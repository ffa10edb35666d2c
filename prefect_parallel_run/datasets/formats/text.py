"""Encoding and compression of text files, and whether a mini-batch can start at a byte offset."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from prefect_parallel_run.child.csv_dialect import Dialect
from prefect_parallel_run.child.storage import open_file
from prefect_parallel_run.child.text import TextStream, check_compression, is_transparent, not_encoded
from prefect_parallel_run.datasets.record_ends import Records, record_ends

Compression = Literal["infer", "gzip", "bz2", "xz", "zstd"] | None
_ENDINGS: dict[str, Literal["gzip", "bz2", "xz", "zstd"]] = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}


def checked_encoding(name: str) -> str:
    """Return *name*; raises ValueError when it is not a text encoding."""
    try:
        "a".encode(name)
    except (LookupError, UnicodeError, ValueError):
        expected = "an encoding that Python knows, such as 'utf-8' or 'latin-1'"
        raise ValueError(f"encoding: expected {expected}, got {name!r}") from None
    return name


class EncodingCheck:
    """Checks that records are valid in their encoding, and keeps a warning about the first that are not."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self.warnings: dict[str, str] = {}  #: at most one, by category

    def passing(self, parts: Iterator[Records]) -> Iterator[Records]:
        """Yield *parts*, checking each."""
        for part in parts:
            if not self.warnings and not part.data.isascii():
                self._decode(part.data)
            yield part

    def _decode(self, data: bytes) -> None:
        try:
            data.decode(self._encoding)
        except UnicodeDecodeError as error:
            self.warnings["encoding"] = f"{not_encoded(self._encoding, error)} The mini-batches with such records will fail"


@dataclass(frozen=True, slots=True)
class Storage:
    """Encoding and compression of text files."""

    encoding: str = "utf-8"
    compression: Compression = "infer"
    is_always_utf8: bool = False  #: slices must be UTF-8 (JSON lines): text in another encoding is read as a stream

    def about(self, path: str) -> dict[str, Any]:
        """Return the fields of a mini-batch's work about encoding and compression; none for plain UTF-8."""
        compression = self._compression(path)
        if compression is not None or not self._can_slice():
            return {"stream": {"compression": compression, "encoding": self.encoding}}
        return {} if self._is_utf8() else {"encoding": self.encoding}

    @contextmanager
    def records(self, path: str, dialect: Dialect, *, lone_returns: bool = True) -> Iterator[Iterator[Records]]:
        """Open the file at *path* and return its records."""
        stream = self.about(path).get("stream")
        if stream is None:
            with open_file(path) as file:
                check_compression(file, None)
                yield record_ends(file, dialect, lone_returns=lone_returns, has_mark=self._is_utf8())
            return
        text = TextStream(path, stream["compression"], stream["encoding"])
        try:
            yield record_ends(text, dialect, lone_returns=lone_returns, has_mark=False)
        finally:
            text.close()

    def _compression(self, path: str) -> Literal["gzip", "bz2", "xz", "zstd"] | None:
        if self.compression != "infer":
            return self.compression
        return next((kind for ending, kind in _ENDINGS.items() if path.lower().endswith(ending)), None)

    def _is_utf8(self) -> bool:
        return codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig")

    def _can_slice(self) -> bool:
        return self._is_utf8() or (is_transparent(self.encoding) and not self.is_always_utf8)
