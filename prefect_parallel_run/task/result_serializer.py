"""Stores results and errors of steps in Prefect's result storage as JSON, never as a pickle.

Prefect's own JSON encodes an error as its message only; the errors of this package are rebuilt from their arguments.
"""

from __future__ import annotations

from typing import Any

from prefect.serializers import JSONSerializer, prefect_json_object_decoder, prefect_json_object_encoder
from pydantic import ValidationError

from prefect_parallel_run import errors

_KEY = "__parallel_run_error__"


def encode(value: Any) -> Any:
    """Return *value* as JSON types; the ``default`` of json.dumps."""
    if isinstance(value, errors.ParallelRunError):
        return {_KEY: type(value).__name__, "facts": value.args}
    if isinstance(value, ValidationError):  # cannot be rebuilt; it is a ValueError
        return prefect_json_object_encoder(ValueError(str(value)))
    return prefect_json_object_encoder(value)


def decode(document: dict[str, Any]) -> Any:
    """Return the value that ``encode`` encoded; the ``object_hook`` of json.loads."""
    if _KEY not in document:
        return prefect_json_object_decoder(document)
    kind = getattr(errors, document[_KEY], None)
    if not (isinstance(kind, type) and issubclass(kind, errors.ParallelRunError)):
        raise ValueError(f"{document[_KEY]} is not an error of prefect_parallel_run")
    return kind(*(tuple(fact) if isinstance(fact, list) else fact for fact in document["facts"]))


RESULT_SERIALIZER = JSONSerializer(
    object_encoder=f"{__name__}.{encode.__name__}", object_decoder=f"{__name__}.{decode.__name__}"
)
