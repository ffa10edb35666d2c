"""Records end where pandas ends them, with any content."""

import io
import re

import pandas as pd
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from prefect_parallel_run.child.delimited import FIELD, QUOTED, START, Dialect, records
from prefect_parallel_run.child.reading import Reader
from prefect_parallel_run.datasets import text as module
from prefect_parallel_run.datasets.tabular import TabularDataset
from prefect_parallel_run.datasets.text import UnfinishedRecordError, record_ends
from prefect_parallel_run.errors import InputError

QUOTED_TEXT = Dialect(quote=b'"')
HOSTILE = st.text(st.sampled_from('",\n\r \tab"\n,é\\'), max_size=60)

# Behind a blank line that ends in a lone carriage return pandas swallows the delimiter: "\r,x" becomes the one field "x".
# Before version 3 it goes astray, even round and round, where a lone carriage return stands before a blank.
LOST_BY_PANDAS = re.compile(r"(^|[\r\n])[ \t]*\r," if pd.__version__ >= "3" else r"\r[ \t]|(^|[\r\n])[ \t]*\r,")


def pandas_rows(text, **options):
    """Rows of the whole file as pandas reads them, as strings; None when pandas refuses it."""
    wide = [f"c{number}" for number in range(62)]
    try:
        frame = pd.read_csv(
            io.BytesIO(text.encode()), header=None, names=wide, index_col=False, dtype=str, engine="c", **options
        )
    except pd.errors.EmptyDataError:
        return []
    except pd.errors.ParserError:
        return None
    return frame.fillna("").to_numpy().tolist()


DIALECTS = st.builds(
    Dialect,
    delimiter=st.just(b","),
    quote=st.sampled_from([b'"', b""]),
    escape=st.sampled_from([b"\\", b""]),
    double_quote=st.booleans(),
)


def options_of(dialect):
    """The same for pandas."""
    quoting = {"quotechar": dialect.quote.decode()} if dialect.quote else {"quoting": 3}
    escape = dialect.escape.decode() or None
    return {"escapechar": escape, "doublequote": dialect.double_quote, **quoting}


@given(text=HOSTILE, dialect=DIALECTS, block=st.integers(1, 20))
@example(text='a"b\n"c', dialect=QUOTED_TEXT, block=5)
@example(text='"a"b"\nc"\n', dialect=QUOTED_TEXT, block=1000)
@example(text=' "a\nb"\n', dialect=QUOTED_TEXT, block=1000)
@example(text='""\n"""\n"\n', dialect=QUOTED_TEXT, block=3)
@example(text="a\rb\r\n\rc", dialect=QUOTED_TEXT, block=2)
@example(text='"\n"', dialect=QUOTED_TEXT, block=1)
@example(text='"a\\",\n"\\\nb",\\\n"c', dialect=Dialect(quote=b'"', escape=b"\\"), block=3)
@example(text='"a"\\\nb', dialect=Dialect(quote=b'"', escape=b"\\"), block=100)
@example(text='"a"\\\nb', dialect=Dialect(quote=b'"', escape=b"\\", double_quote=False), block=100)
@example(text='"a""\n",b\n', dialect=Dialect(quote=b'"', double_quote=False), block=2)
@example(text='a\\\n"b\n"', dialect=Dialect(quote=b'"', escape=b"\\"), block=1)
def test_records_end_where_pandas_ends_them(text, dialect, block):
    """Every span, read alone, is one row, and all rows together equal those of the whole file."""
    assume(not LOST_BY_PANDAS.search(text))
    expected = pandas_rows(text, **options_of(dialect))
    data = text.encode()
    saved, module._BLOCK = module._BLOCK, block
    spans = []
    try:
        for part in record_ends(io.BytesIO(data), dialect):
            start = part.start
            for stop, filled in zip(part.ends, part.filled, strict=True):
                spans += [data[start:stop]] if filled else []
                start = stop
    except UnfinishedRecordError:
        assert expected is None
        return
    finally:
        module._BLOCK = saved
    assert expected is not None
    assert [row for span in spans for row in pandas_rows(span.decode(), **options_of(dialect))] == expected
    assert len(spans) == len(expected)
    assert [data[start:stop] for start, stop, _ in records(data, dialect)] == spans


@given(text=HOSTILE, dialect=DIALECTS)
def test_parity_and_state_machine_agree(text, dialect):
    """They agree from any state in which a block can start, if parity is allowed."""
    block = text.encode()
    for state in (START, FIELD, *([QUOTED] if dialect.quote else [])):
        quick = module._breaks(block, state, dialect)
        exact = module._scanned(block, state, dialect)
        assert (quick[0].tolist(), quick[1]) == (exact[0].tolist(), exact[1])


@given(
    rows=st.lists(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8), min_size=3, max_size=3
        ),
        min_size=1,
    ),
    size=st.integers(1, 200),
    terminator=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
    last_newline=st.booleans(),
)
def test_every_quoted_record_is_in_exactly_one_mini_batch(rows, size, terminator, bom, last_newline, tmp_path_factory):
    """Records keep their order; each mini-batch has the planned number of rows, for any text and size."""
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    frame = pd.DataFrame(rows, columns=["a", "b", "c"])
    text = frame.to_csv(index=False, lineterminator=terminator, quoting=1)
    text = text if last_newline else text.removesuffix(terminator)
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + text.encode())
    dataset = TabularDataset.from_delimited_files([path]).as_named_input("t")
    import json

    frames = []
    for cut in dataset.cuts(size):
        read = Reader().read(json.loads(cut.work))
        assert len(read) == cut.items
        frames.append(read)
    whole = pd.read_csv(io.BytesIO(path.read_bytes()), encoding="utf-8-sig", engine="c")
    assert sum(len(frame) for frame in frames) == len(rows) == len(whole)
    together = pd.concat([frame.astype(str) for frame in frames], ignore_index=True)
    assert list(together.columns) == ["a", "b", "c"]


def test_a_missing_closing_quote_names_the_file(tmp_path):
    """It must not become one endless record."""
    path = tmp_path / "t.csv"
    path.write_text('a,b\n1,"2\n3,4\n')
    with pytest.raises(InputError, match=r"t.csv: ends inside a quoted field"):
        list(TabularDataset.from_delimited_files([path]).cuts(10))
