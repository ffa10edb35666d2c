"""How text is stored: its encoding and compression, and whether a mini-batch can begin in the middle of its bytes."""

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
    """Return *name*; raises ValueError when it is no encoding of text."""
    try:
        "a".encode(name)
    except (LookupError, UnicodeError, ValueError):
        raise ValueError(f"encoding is {name!r}; accepted: an encoding that Python knows, such as 'utf-8', 'latin-1'") from None
    return name


class Encoded:
    """Looks at the bytes of a text that pass by, whether they are in its encoding; remembers the first that are not."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self.doubts: dict[str, str] = {}  #: none, or one

    def look(self, parts: Iterator[Records]) -> Iterator[Records]:
        """Pass *parts* on."""
        for part in parts:
            if not self.doubts and not part.data.isascii():
                self._decode(part.data)
            yield part

    def _decode(self, data: bytes) -> None:
        try:
            data.decode(self._encoding)
        except UnicodeDecodeError as error:
            self.doubts["encoding"] = f"{not_encoded(self._encoding, error)} The mini-batches with such records will fail"


@dataclass(frozen=True, slots=True)
class Storage:
    """How the text of some files is stored."""

    encoding: str = "utf-8"
    compression: Compression = "infer"
    is_always_utf8: bool = False  #: slices must come as UTF-8 (JSON lines): another encoding is a stream

    def about(self, path: str) -> dict[str, Any]:
        """Return what the work of a mini-batch says about it; nothing where it is plain UTF-8."""
        compression = self._compression(path)
        if compression is not None or not self._is_open_to_slices():
            return {"stream": {"compression": compression, "encoding": self.encoding}}
        return {} if self._is_utf8() else {"encoding": self.encoding}

    @contextmanager
    def records(self, path: str, dialect: Dialect, *, lone_returns: bool = True) -> Iterator[Iterator[Records]]:
        """Give the records of the file at *path* while it is open."""
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

    def _is_open_to_slices(self) -> bool:
        return self._is_utf8() or (is_transparent(self.encoding) and not self.is_always_utf8)
