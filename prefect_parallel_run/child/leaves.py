"""The values inside nested Arrow arrays."""

from typing import Any, Iterator, Tuple

Path = Tuple[str, ...]  #: path of values: the column, then fields of structs, ``item`` of lists, ``key`` and ``value`` of maps


def leaves(array: Any, path: Path = ()) -> Iterator[Tuple[Path, Any]]:
    """Yield the arrays of values that are not nested, each with its path; a dictionary array gives its categories."""
    import pyarrow as pa  # noqa: PLC0415  only tables need it

    kind, is_type = array.type, pa.types
    if is_type.is_dictionary(kind):
        yield from leaves(array.dictionary, path)
    elif is_type.is_struct(kind):
        for field, inner in zip(kind, array.flatten()):
            yield from leaves(inner, (*path, field.name))
    elif is_type.is_map(kind):
        yield from leaves(array.keys, (*path, "key"))
        yield from leaves(array.items, (*path, "value"))
    elif hasattr(kind, "value_field"):  # a list of any layout
        yield from leaves(array.flatten(), (*path, "item"))
    else:
        yield path, array
