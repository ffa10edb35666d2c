"""How results and errors of steps lie in Prefect's result storage: as JSON, never a pickle.

Prefect's own JSON makes an error of its text alone, which ours, with their facts as arguments, cannot be made of.
"""

from __future__ import annotations

from typing import Any

from prefect.serializers import JSONSerializer, prefect_json_object_decoder, prefect_json_object_encoder
from pydantic import ValidationError

from prefect_parallel_run import errors

_KEY = "__parallel_run_error__"


def encode(value: Any) -> Any:
    """Return *value* in terms of JSON; see json.dumps, default."""
    if isinstance(value, errors.ParallelRunError):
        return {_KEY: type(value).__name__, "facts": value.args}
    if isinstance(value, ValidationError):  # cannot be made anew; it is a ValueError
        return prefect_json_object_encoder(ValueError(str(value)))
    return prefect_json_object_encoder(value)


def decode(given: dict[str, Any]) -> Any:
    """Return what ``encode`` was given; see json.loads, object_hook."""
    if _KEY not in given:
        return prefect_json_object_decoder(given)
    kind = getattr(errors, given[_KEY], None)
    if not (isinstance(kind, type) and issubclass(kind, errors.ParallelRunError)):
        raise ValueError(f"{given[_KEY]} is no error of prefect_parallel_run")  # noqa: TRY004  a wrong value
    return kind(*(tuple(fact) if isinstance(fact, list) else fact for fact in given["facts"]))


RESULT_SERIALIZER = JSONSerializer(
    object_encoder=f"{__name__}.{encode.__name__}", object_decoder=f"{__name__}.{decode.__name__}"
)
