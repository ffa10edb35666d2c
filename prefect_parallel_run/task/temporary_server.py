"""Prefect's temporary server, which starts with a flow or task when no standing server is configured."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])
_MESSAGE = "Timed out while attempting to connect to ephemeral Prefect API server"
_ADVICE = (
    "Prefect's temporary server did not start in time; it needs about 30 s the first time, to create its database. "
    "Start a standing server with 'prefect server start' and run "
    "'prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api', "
    "or set PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=180"
)


def explains_start_timeout(function: F) -> F:
    """Return *function*, whose error for a temporary server that did not start also says what to do."""

    @wraps(function)
    def explained(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:  # Prefect has no class of its own for it
            if _MESSAGE not in str(error):
                raise
            raise RuntimeError(f"{error} {_ADVICE}") from error

    return cast("F", explained)
