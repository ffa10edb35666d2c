"""How committed ranges are cut into the parts of a result."""

from itertools import groupby, pairwise

from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run.output import part_plan
from prefect_parallel_run.output.part_plan import cut
from prefect_parallel_run.runs.ledger import Place


@st.composite
def committed(draw):
    """Ranges in mini-batch order; some mini-batches were bisected and have several."""
    places = []
    for mini_batch in range(draw(st.integers(0, 30))):
        for _ in range(draw(st.sampled_from([1, 1, 1, 0, 3]))):
            header = draw(st.integers(0, 5))
            length = header + draw(st.integers(0, 50))
            places.append(Place(mini_batch, "p", 0, header, length, 0, 1))
    return places


def body(places):
    return sum(place.length - place.header for place in places)


@given(places=committed(), most=st.integers(1, 200), header=st.integers(0, 20))
def test_every_range_is_in_one_part_in_order_and_sizes_are_respected(places, most, header):
    """Parts have whole mini-batches, and none is smaller than necessary."""
    parts = list(cut(iter(places), most, header))
    assert [place for part in parts for place in part] == places
    numbers = [{place.mini_batch for place in part} for part in parts]
    assert sum(map(len, numbers)) == len(set().union(*numbers)), "a mini-batch is in two parts"
    for part, mini_batches in zip(parts, numbers, strict=True):
        assert header + body(part) <= most or len(mini_batches) <= 1
    for part, following in pairwise(parts):
        first = next(list(group) for _, group in groupby(following, lambda place: place.mini_batch))
        assert header + body(part) + body(first) > most, "the next mini-batch fits"
    assert parts[1:] == [part for part in parts[1:] if part]


def test_a_result_without_rows_has_one_part():
    """Readers of tables find its columns, or at least a file."""
    assert list(cut(iter([]), 10)) == [[]]


def test_a_part_has_a_bounded_number_of_ranges(monkeypatch):
    """Its description is sent to a node, and is in memory."""
    monkeypatch.setattr(part_plan, "MOST_RANGES", 4)
    places = [Place(number, "p", 0, 0, 1, 0, 1) for number in range(10)]
    assert [len(part) for part in cut(iter(places), 1_000)] == [4, 4, 2]
