"""The dialect of delimited text, and a scanner that ends records and fields where pandas' C parser does."""

import re
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

_WINDOW = 1 << 12  #: bytes searched first for the end of the first record
START, FIELD, QUOTED, ESCAPED = range(4)  #: at a record's start; inside a field; inside quotes; after an escape at the end


class Dialect(NamedTuple):
    """The special bytes; each one byte, or empty for none."""

    delimiter: bytes = b","
    quote: bytes = b""
    escape: bytes = b""
    double_quote: bool = True  #: two quotes in a quoted field stand for one

    @property
    def blanks(self) -> bytes:
        """Bytes that a blank line may contain, without the delimiter, which may be a tab."""
        return bytes(byte for byte in b" \t" if byte not in self.delimiter)


def dialect_of(work: Dict[str, Any]) -> Dialect:
    """Return the dialect of a mini-batch's work."""
    delimiter, quote, escape = work["delimiter"], work["quote"], work.get("escape", "")
    return Dialect(delimiter.encode(), quote.encode(), escape.encode(), work.get("double_quote", True))


def pandas_options(work: Dict[str, Any]) -> Dict[str, Any]:
    """Return a work's dialect as options of pandas.read_csv."""
    return {
        "sep": work["delimiter"],
        **({"quotechar": work["quote"]} if work["quote"] else {"quoting": 3}),
        "escapechar": work.get("escape"),
        "doublequote": work.get("double_quote", True),
        "decimal": work.get("decimal", "."),
        "encoding": work.get("encoding", "utf-8"),
        "na_values": work.get("na_values"),
        "keep_default_na": work.get("keep_default_na", True),
        "low_memory": False,
        "engine": "c",
    }


def scan(block: bytes, state: int, dialect: Dialect) -> Tuple[List[int], List[int], int]:
    """Return the ends of *block*'s records (after the terminator), their numbers of fields, and the state at its end."""
    delimiter, quote, escape, double_quote = dialect
    outside = re.compile(b"[" + re.escape(delimiter + quote + escape) + rb"\n\r]")
    within = re.compile(b"[" + re.escape(quote + escape) + b"]") if quote else outside
    ends: List[int] = []
    counts: List[int] = []
    fields, field_start, behind_quote = 1, 0 if state == START else -1, -1
    inside = state == QUOTED
    position, length = 0, len(block)
    while True:
        match = (within if inside else outside).search(block, position)
        if match is None:
            break
        position, byte = match.start(), match.group()
        if byte == escape and position != behind_quote:  # right after a closing quote it is an ordinary character
            if position + 1 == length:
                return ends, counts, ESCAPED
            position += 2
        elif inside:
            if double_quote and block[position + 1 : position + 2] == quote:
                position += 2
            else:
                position += 1
                inside, behind_quote = False, position if double_quote else -1
        elif byte == quote:
            inside = position == field_start
            position += 1
        elif byte == delimiter:
            position += 1
            fields, field_start = fields + 1, position
        elif byte == escape:
            position += 1
        else:
            position += 2 if block[position : position + 2] == b"\r\n" else 1
            ends.append(position)
            counts.append(fields)
            fields, field_start = 1, position
    if not length:
        return ends, counts, state
    at_start = bool(ends) and ends[-1] == length
    return ends, counts, QUOTED if inside else START if at_start else FIELD


def fields_of_first(data: bytes, dialect: Dialect) -> int:
    """Return the number of fields of the first record that is not blank; 0 when there is none."""
    line, _, _ = data.partition(b"\n")
    is_plain = not any(byte and byte in line for byte in (dialect.quote, dialect.escape)) and b"\r" not in line[:-1]
    if is_plain and line.strip(dialect.blanks + b"\r"):
        return line.count(dialect.delimiter) + 1
    size = _WINDOW
    while size < len(data):
        ends, counts, _ = scan(data[:size], START, dialect)
        for start, stop, fields in zip([0, *ends], ends, counts):
            if data[start:stop].strip(dialect.blanks + b"\r\n"):
                return fields
        size *= 4
    return next((fields for _, _, fields in records(data, dialect)), 0)


def records(data: bytes, dialect: Dialect) -> Iterator[Tuple[int, int, int]]:
    """Yield start, stop and number of fields of the records of *data* that are not blank."""
    ends, counts, _ = scan(data + b"\n", START, dialect)  # the last record may lack a terminator
    start = 0
    for stop, fields in zip(ends, counts):
        if data[start:stop].strip(dialect.blanks + b"\r\n"):
            yield start, stop, fields
        start = stop
