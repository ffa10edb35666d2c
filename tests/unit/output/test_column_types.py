"""The unified columns of one Parquet file: every value is read back unchanged."""

import datetime as dt
import decimal
import io
import itertools

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_parallel_run.child.arrow_values import facts_of, to_metadata
from prefect_parallel_run.errors import RowsDifferError
from prefect_parallel_run.output.columns import Conflict, fit, unify

from .test_publication import Parts


def can_be_built(kind):
    """Return whether this version of pyarrow makes arrays of this type from Python values."""
    try:
        pa.array([], kind)
    except pa.ArrowNotImplementedError:
        return False
    return True


_LEAVES = [
    *(pa.null(), pa.bool_(), pa.string(), pa.large_string(), pa.string_view()),
    *(pa.int8(), pa.int32(), pa.int64(), pa.uint8(), pa.uint32(), pa.uint64(), pa.float16(), pa.float32(), pa.float64()),
    *(pa.decimal128(5, 2), pa.decimal128(38, 0), pa.decimal256(76, 40), pa.date32(), pa.date64()),
    *(pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"), pa.duration("s"), pa.duration("ns")),
    *(pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ms", "UTC"), pa.timestamp("ns", "UTC")),
    *(pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(2), pa.binary(3)),
    *filter(can_be_built, (pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int16(), pa.large_string(), True))),
]
_SAMPLES = {  #: integers at the limits of exact types
    "int": [0, 1, -1, 127, 2**53, 2**53 + 1, -(2**53) - 1, 2**62],
    "uint": [0, 1, 255, 2**53 + 1, 2**63, 2**64 - 1],
}


def sample(kind, number):  # noqa: PLR0911  one case per type
    """Return sample *number* of a type."""
    is_type = pa.types
    if is_type.is_null(kind):
        return None
    if is_type.is_dictionary(kind):
        return sample(kind.value_type, number)
    if is_type.is_boolean(kind):
        return bool(number % 2)
    if is_type.is_integer(kind):
        samples = _SAMPLES["int" if is_type.is_signed_integer(kind) else "uint"]
        limit = 2 ** (kind.bit_width - is_type.is_signed_integer(kind))
        fitting = [value for value in samples if -limit <= value < limit]
        return fitting[number % len(fitting)]
    if is_type.is_floating(kind):
        return [0.5, -2.0, 1.25][number % 3]
    if is_type.is_decimal(kind):
        return decimal.Decimal(number).scaleb(-min(kind.scale, 2))
    if "string" in str(kind):
        return f"text {number}"
    if "binary" in str(kind):
        return (b"%03d" % number)[: getattr(kind, "byte_width", 3) if is_type.is_fixed_size_binary(kind) else 3]
    if is_type.is_date(kind):
        return dt.date(2000 + number, 1, 1)
    if is_type.is_time(kind):
        return dt.time(number % 24, 1, 2)
    if is_type.is_duration(kind):
        return dt.timedelta(seconds=number)
    zone = dt.timezone.utc if kind.tz else None
    far = number % 5 == 0 and kind.unit != "ns"
    return dt.datetime(9000 if far else 2000 + number, 1, 2, tzinfo=zone)


def is_possible(conversion):
    """Return whether this version of pyarrow makes a conversion."""
    try:
        conversion()
    except (pa.ArrowInvalid, pa.ArrowIndexError):
        return False
    return True


def cast_null_dictionaries():
    """Cast a null struct with a list of one size of dictionary values; version 26 fails."""
    lists = pa.list_(pa.dictionary(pa.int8(), pa.string()), 1)
    pa.array([None], pa.struct([("a", lists)])).cast(pa.struct([("a", pa.list_(pa.string(), 1))]))


CASTS_NULL_DICTIONARIES = is_possible(cast_null_dictionaries)


def is_castable_in_fixed_list(kind):
    """Return whether pyarrow casts every value of lists of one size of this type."""
    return CASTS_NULL_DICTIONARIES or "dictionary" not in str(kind)


def nested(kinds):
    names = st.sampled_from("abc")
    return st.one_of(
        kinds.map(pa.list_),
        kinds.map(pa.large_list),
        st.tuples(kinds.filter(is_castable_in_fixed_list), st.integers(1, 2)).map(lambda both: pa.list_(*both)),
        st.dictionaries(names, kinds, min_size=1, max_size=2).map(lambda fields: pa.struct(list(fields.items()))),
        kinds.filter(lambda kind: not pa.types.is_nested(kind)).map(lambda kind: pa.map_(pa.string(), kind)),
    )


KINDS = st.recursive(st.sampled_from(_LEAVES), nested, max_leaves=3)


def value(draw, kind):
    if draw(st.integers(0, 4)) == 0:
        return None
    if pa.types.is_map(kind):
        return [("k", value(draw, kind.item_type))]
    if pa.types.is_struct(kind):
        return {field.name: value(draw, field.type) for field in kind}
    if hasattr(kind, "value_field"):
        length = getattr(kind, "list_size", None) or draw(st.integers(0, 2))
        return [value(draw, kind.value_type) for _ in range(length)]
    return sample(kind, draw(st.integers(0, 20)))


def read_null_fixed_lists():
    """Read a null in a column of lists of one size; versions up to 23 fail."""
    file = io.BytesIO()
    pq.write_table(pa.table({"x": pa.array([[1], None], pa.list_(pa.int64(), 1))}), file)
    pq.read_table(file)


READS_NULL_FIXED_LISTS = is_possible(read_null_fixed_lists)


def is_read_from_parquet(kind):
    """Return whether pyarrow reads all values of a type that it writes to Parquet."""
    return READS_NULL_FIXED_LISTS or "fixed_size_list" not in str(kind)


@st.composite
def columns(draw, kinds=KINDS):
    kind = draw(kinds)
    return pa.table({"x": pa.array([value(draw, kind) for _ in range(draw(st.integers(1, 3)))], kind)})


def schema_of(table):
    return table.schema.with_metadata(to_metadata(facts_of(table)))


def unify_all(*schemas):
    result = schemas[0]
    for schema in schemas[1:]:
        result = result if isinstance(result, Conflict) else unify(result, schema)
    return result


def same(before, after):
    """Return whether a value is unchanged; added fields of a struct are null."""
    if isinstance(before, dict):
        return all(same(before.get(name), inner) for name, inner in after.items()) and before.keys() <= after.keys()
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(map(same, before, after))
    if isinstance(before, dt.datetime):
        return pd.Timestamp(before) == pd.Timestamp(after)
    return before == after


@settings(max_examples=300, deadline=None)
@given(columns(), columns())
def test_unification_is_lossless(first, second):
    """Every value of both can be cast to the unified type and stays the same."""
    unified = unify(schema_of(first), schema_of(second))
    if isinstance(unified, Conflict):
        assert unified.column == "x"
        return
    for table in (first, second):
        for chunk in table.column(0).chunks:
            cast = fit(chunk, unified.field(0).type)
            assert cast.type == unified.field(0).type
            cast.validate(full=True)
            assert same(chunk.to_pylist(), cast.to_pylist())


@settings(max_examples=300, deadline=None)
@given(columns(), columns(), columns())
def test_unification_is_associative(first, second, third):
    """The order of receipts matters neither for the result nor for a conflict."""
    a, b, c = map(schema_of, (first, second, third))
    right = unify(b, c)
    right = right if isinstance(right, Conflict) else unify(a, right)
    left = unify_all(a, b, c)
    assert isinstance(left, Conflict) == isinstance(right, Conflict)
    if not isinstance(left, Conflict):
        assert left.equals(right, check_metadata=True)


@pytest.mark.parametrize(("first", "second"), list(itertools.product(_LEAVES, repeat=2)))
def test_unification_of_leaf_types_is_commutative(first, second):
    """And nulls fit every type."""
    a, b = (pa.schema([("x", kind)]) for kind in (first, second))
    assert isinstance(unify(a, b), Conflict) == isinstance(unify(b, a), Conflict)
    if pa.types.is_null(first) or first == second:
        assert not isinstance(unify(a, b), Conflict)


@settings(max_examples=60, deadline=None)
@given(columns(KINDS.filter(lambda kind: "null" not in str(kind) and is_read_from_parquet(kind))))
def test_every_type_is_read_back_from_parquet(tmp_path_factory, table):
    """As a script returns rows that it passes through, one of them without a value."""
    folder = tmp_path_factory.mktemp("parts")
    parts = Parts(folder, "parquet")
    parts.add(0, table.to_pandas(types_mapper=pd.ArrowDtype))
    parts.add(1, pd.DataFrame({"x": [None]}))
    parts.publish(folder / "r.parquet")
    values = pq.read_table(folder / "r.parquet").column("x").to_pylist()
    assert same(table.column("x").to_pylist(), values[:-1])
    assert values[-1] is None


D = decimal.Decimal


@pytest.mark.parametrize(
    "rows",
    [
        [[D("1.5")], [D("12345.678")], [D(1)]],
        [[[1]], [[]], [[2, 3]]],
        [[{"a": None}], [{"a": 1}], [{"a": 2}]],
        [[1], [2.5], [None]],
        [["x"], [None], ["y"]],
    ],
)
def test_inferred_types_may_differ_between_mini_batches(tmp_path, rows):
    """Arrow infers a type from the values of each mini-batch alone."""
    for number, order in enumerate(itertools.permutations(rows)):
        parts = Parts(tmp_path, "parquet")
        for mini_batch, column in enumerate(order):
            parts.add(mini_batch, pd.DataFrame({"x": pd.Series(column, dtype=None)}), part=f"{number}")
        parts.publish(tmp_path / "r.parquet")
        assert pq.read_table(tmp_path / "r.parquet").column("x").to_pylist() == [row for column in order for row in column]


def test_categories_may_outnumber_the_index_type(tmp_path):
    """The index of each mini-batch has one byte."""
    parts = Parts(tmp_path, "parquet")
    for number in range(4):
        parts.add(number, pd.DataFrame({"x": pd.Categorical([f"{number}-{each}" for each in range(100)])}))
    assert parts.publish(tmp_path / "r.parquet").rows == 400
    assert pd.read_parquet(tmp_path / "r.parquet")["x"].nunique() == 400


def test_integers_that_a_double_cannot_hold_conflict(tmp_path):
    """Smaller integers do not."""
    parts = Parts(tmp_path, "parquet")
    parts.add(0, pd.DataFrame({"x": [2**53 + 1]}))
    parts.add(1, pd.DataFrame({"x": [0.5]}))
    with pytest.raises(RowsDifferError, match="column 'x' is double in mini-batch 1 and int64 in mini-batch 0"):
        parts.publish(tmp_path / "r.parquet")


def test_columns_are_matched_by_name(tmp_path):
    """The first mini-batch determines their order."""
    parts = Parts(tmp_path, "parquet")
    parts.add(0, [{"a": 1, "b": "x"}])
    parts.add(1, [{"b": "y", "a": 2}])
    parts.publish(tmp_path / "r.parquet")
    assert pq.read_table(tmp_path / "r.parquet").to_pydict() == {"a": [1, 2], "b": ["x", "y"]}


def test_values_below_a_null_do_not_affect_the_type():
    """No reader can see them."""
    below = pa.array([2**53 + 1, 1], pa.int64())
    struct = pa.StructArray.from_arrays([below], names=["a"], mask=pa.array([True, False]))
    ragged = pa.ListArray.from_arrays(pa.array([0, 1, 2]), below, mask=pa.array([True, False]))
    for array, kind in ((struct, pa.struct([("a", pa.float64())])), (ragged, pa.list_(pa.float64()))):
        unified = unify(schema_of(pa.table({"x": array})), pa.schema([("x", kind)]))
        assert fit(array, unified.field("x").type).to_pylist() == array.to_pylist()


def test_column_facts_accumulate_over_mini_batches(tmp_path):
    """The types alone fit, but the values of a later mini-batch do not."""
    parts = Parts(tmp_path, "parquet")
    for number, rows in enumerate([[1], [0.5], [2], [2**53 + 1]]):
        parts.add(number, rows)
    with pytest.raises(RowsDifferError, match="column 'value' is int64 in mini-batch 3 and double in mini-batch 1"):
        parts.publish(tmp_path / "r.parquet")
