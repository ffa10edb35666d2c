"""Reads the text of a file: a range of its bytes if possible, else a stream of UTF-8 from the beginning.

Compressed text, and encodings in which an ASCII byte may be part of another character, cannot be read from the middle.
Such a file is decompressed and transcoded from its beginning; offsets count the resulting UTF-8, without a byte order mark.
The last stream stays open, so that the next mini-batch reads only its own bytes.
"""

import codecs
import zlib
from abc import abstractmethod
from functools import lru_cache
from typing import Any, Callable, Dict, Literal, Optional, Sequence, Tuple, Type, get_args

from .storage import open_file, read_range, request
from .table_formats import TableReader

BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 20  #: bytes read at a time
_KEPT = 64 << 20  #: most bytes of a mini-batch that are kept in memory
#: Types of pandas by the kinds of values in a column; for strings, its default type.
DTYPES = {"int": "int64", "uint": "uint64", "float": "float64", "bool": "bool", "bool_or_null": "object", "other": "object"}
Codec = Literal["gzip", "bz2", "xz", "zstd"]
COMPRESSIONS: Tuple[Codec, ...] = get_args(Codec)
_FIRST_BYTES = {  # of compressed files; in text they would be control characters or broken UTF-8, or are very unlikely
    b"\x1f\x8b\x08": "gzip",
    b"BZh91AY&SY": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x1f\x9d\x90": "compress",
}


class BadRecord(Exception):  # noqa: N818  its name is shown to the user as the error's type
    """A record cannot be read; the message contains file and record.

    Args:
        text: The message.
        may_pass: Another attempt may succeed. Otherwise it cannot, because the file has not changed since planning.
    """

    def __init__(self, text: str, *, may_pass: bool = False) -> None:
        super().__init__(text)
        self.code = None if may_pass else "NoRetry"  #: failure.py reads it


class UnreadableText(ValueError):  # noqa: N818  callers replace it by an error that names the file
    """The content of a file cannot be decompressed, or is not in its encoding."""


def not_encoded(encoding: str, error: UnicodeError) -> str:
    """Return the error message for text that is not in the dataset's encoding."""
    reason = str(error)
    if isinstance(error, UnicodeDecodeError):  # its position would be relative to some part of the text
        reason = f"byte 0x{error.object[error.start]:02x}: {error.reason}"
    return f"is not {encoding.upper()}: {reason}; check the dataset's encoding"


def location(work: Dict[str, Any]) -> str:
    """Describe the location of a mini-batch's records, for errors."""
    return f"{work['path']}, {work['rows']} records from {work['first']} on"


def check_compression(file: Any, compression: Optional[str]) -> None:
    """Raise UnreadableText when the first bytes of *file* show another compression than the dataset's.

    The file must be at its beginning, and is rewound afterwards.
    """
    head = file.read(max(map(len, _FIRST_BYTES)))
    file.seek(0)
    if head[:3] == b"BZh":
        head = head[:3] + b"9" + head[4:]  # normalizes the block size
    detected = next((kind for first, kind in _FIRST_BYTES.items() if head.startswith(first)), compression)
    if detected == compression:
        return
    problem = f"is compressed with {detected}" + (f", not with {compression}" if compression else "")
    if detected in COMPRESSIONS:
        raise UnreadableText(f"{problem}; pass compression={detected!r}")
    raise UnreadableText(f"{problem}, which is not supported; decompress it, or use one of {', '.join(COMPRESSIONS)}")


@lru_cache(maxsize=None)
def is_transparent(encoding: str) -> bool:
    """True when every byte below 128 is that ASCII character, so that delimiters and line ends can be found in raw bytes.

    >>> [is_transparent(name) for name in ("utf-8", "latin-1", "koi8-r", "utf-16", "utf-7", "shift_jis", "gb18030", "cp037")]
    [True, True, True, False, False, False, False, False]
    """
    ascii_bytes = bytes(range(128))
    beyond = "".join(map(chr, [*range(0x80, 0xD800), *range(0xE000, 0x11000)]))
    try:
        is_ascii = ascii_bytes.decode(encoding) == ascii_bytes.decode("ascii")
        return is_ascii and min(beyond.encode(encoding, "ignore"), default=0x80) >= 0x80
    except UnicodeError:
        return False


class TextStream:
    """The text of a file as UTF-8, read in chunks from its beginning.

    Raises:
        UnreadableText: Also by read(): the file is damaged, truncated, compressed differently, or not in its encoding.
    """

    def __init__(self, path: str, compression: Optional[str], encoding: str) -> None:
        self.position = 0  #: bytes of text returned so far
        self._compression, self._encoding = compression, encoding
        is_utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
        self._decoder: Any = None if is_utf8 else codecs.getincrementaldecoder(encoding)("strict")
        self._ready = bytearray()
        self._is_at_end = False
        self._file = open_file(path)
        try:
            check_compression(self._file, compression)
            self._plain = _decompressed(self._file, compression)
            self._fill(len(BOM))
        except BaseException:
            self._file.close()
            raise
        if self._ready.startswith(BOM):
            del self._ready[: len(BOM)]

    def read(self, size: int) -> bytes:
        """Return the next *size* bytes of text; fewer only at its end."""
        self._fill(size)
        data = bytes(self._ready[:size])
        del self._ready[:size]
        self.position += len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __del__(self) -> None:  # owners of a reader need not know that it holds a file
        if hasattr(self, "_file"):
            self._file.close()

    def _fill(self, size: int) -> None:
        try:
            while len(self._ready) < size and not self._is_at_end:
                chunk = self._plain.read(_CHUNK)
                self._is_at_end = not chunk
                self._ready += chunk if self._decoder is None else self._transcoded(chunk)
        except UnicodeError as error:
            raise UnreadableText(not_encoded(self._encoding, error)) from None
        except _errors_of(self._compression) as error:
            if self._compression is None:
                raise
            raise UnreadableText(f"has damaged {self._compression} data: {error}") from None

    def _transcoded(self, chunk: bytes) -> bytes:
        text: str = self._decoder.decode(chunk, self._is_at_end)
        return text.encode()


def _errors_of(compression: Optional[str]) -> "Tuple[Type[Exception], ...]":
    usual = (OSError, EOFError, ValueError, zlib.error)
    if compression != "xz":
        return usual
    import lzma  # noqa: PLC0415  most processes never need it, and a Python may lack it

    return (*usual, lzma.LZMAError)


def _decompressed(file: Any, compression: Optional[str]) -> Any:
    """Return a decompressing reader of *file*; concatenated streams are all read."""
    if compression == "gzip":
        import gzip  # noqa: PLC0415  most processes never need it

        return gzip.GzipFile(fileobj=file)
    if compression == "bz2":
        import bz2  # noqa: PLC0415  most processes never need it

        return _Streams(file, bz2.BZ2Decompressor)
    if compression == "xz":
        import lzma  # noqa: PLC0415  most processes never need it, and a Python may lack it

        return _Streams(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ))
    if compression == "zstd":
        import pyarrow as pa  # noqa: PLC0415  Python itself supports zstd from 3.14 on

        return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")
    return file


class _Streams:
    """Reads concatenated compressed streams. Unlike bz2 and lzma, it raises for trailing data that is not a stream.

    Args:
        file: Open for reading.
        create: Returns a decompressor of one stream.
    """

    def __init__(self, file: Any, create: Callable[[], Any]) -> None:
        self._file, self._create = file, create
        self._stream = create()

    def read(self, size: int) -> bytes:
        """Return at most *size* bytes; none at the end."""
        data = b""
        while not data:
            if self._stream.eof:
                block = self._stream.unused_data.lstrip(b"\0")  # some writers pad their last block with zeros
                while not block:
                    block = self._file.read(_CHUNK)
                    if not block:
                        return b""
                    block = block.lstrip(b"\0")
                self._stream = self._create()
            else:
                block = self._file.read(_CHUNK) if self._stream.needs_input else b""
                if not block and self._stream.needs_input:
                    raise EOFError("the file is truncated in the middle of a stream")
            data = self._stream.decompress(block, size)
        return data


class TextReader(TableReader):
    """Reads slices of text files; keeps the last stream open, and its last slice for another attempt at the mini-batch."""

    def __init__(self) -> None:
        self._key: Any = None  # of the open stream
        self._stream: Optional[TextStream] = None
        self._held: Tuple[Any, bytes] = (None, b"")  # key of a slice, and its text

    def read(self, work: Dict[str, Any], piece: Optional[Sequence[int]] = None) -> Any:
        """Return the records."""
        data = self._text(work)
        if piece is not None:
            work = {**work, "rows": piece[1] - piece[0], "first": work["first"] + piece[0]}
            data = self.part(work, data, *piece)
        frame = self.frame(work, data)
        if len(frame) != work["rows"]:
            raise BadRecord(f"{location(work)}: expected {work['rows']} rows as planned, read {len(frame)}")
        return frame

    @abstractmethod
    def frame(self, work: Dict[str, Any], data: bytes) -> Any:
        """Return the records in *data*, the text of a mini-batch, as a DataFrame."""

    @abstractmethod
    def part(self, work: Dict[str, Any], data: bytes, start: int, stop: int) -> bytes:
        """Return the bytes of records *start* to *stop* of *data*, without blank ones; other records may be broken."""

    def prepare(self, work: Dict[str, Any]) -> None:
        """Read the text of the mini-batch."""
        if work["stop"] - work["start"] <= _KEPT:
            self._held = (_slice_key(work), self._text(work))

    def holds(self, work: Dict[str, Any]) -> bool:
        """Return whether the text of the mini-batch is in memory."""
        return bool(self._held[0] == _slice_key(work))

    def _text(self, work: Dict[str, Any]) -> bytes:
        """Return the text of a mini-batch: raw bytes, or UTF-8 if the file is read as a stream."""
        if self.holds(work):
            return self._held[1]
        self._held = (None, b"")
        if "stream" not in work:
            data = read_range(work["path"], work["start"], work["stop"])
            request(work["path"], work["stop"], work["stop"] + min(len(data), _KEPT))  # probably of the next mini-batch
            return data
        try:
            data = self._forward(_source_key(work), work["start"], work["stop"])
        except UnreadableText as error:
            self._close()
            # An incomplete read from a disk or a store looks like damaged data.
            may_pass = work["stream"]["compression"] is not None
            raise BadRecord(f"{work['path']}: {error}", may_pass=may_pass) from None
        if len(data) <= _KEPT:
            self._held = (_slice_key(work), data)
        return data

    def _forward(self, key: Any, start: int, stop: int) -> bytes:
        if self._stream is None or self._key != key or self._stream.position > start:
            self._close()
            self._stream = TextStream(key[0], key[2], key[3])
            self._key = key
        while self._stream.position < start and self._stream.read(min(_CHUNK, start - self._stream.position)):
            pass
        return self._stream.read(stop - start)

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._key, self._stream = None, None


def _slice_key(work: Dict[str, Any]) -> Any:
    return (*_source_key(work), work["start"], work["stop"])


def _source_key(work: Dict[str, Any]) -> Any:
    stream = work.get("stream") or {"compression": None, "encoding": None}
    return work["path"], work["version"], stream["compression"], stream["encoding"]
