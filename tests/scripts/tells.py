"""Says its secret wherever it can: in an error, in its log, in shutdown()."""

import os

from prefect_parallel_run import EntryScript

SECRET = os.environ["TOKEN_FOR_TEST"]


class TroubleError(Exception):
    def __str__(self):
        return f"cannot log in with {SECRET}"


def run(mini_batch, context):
    EntryScript().logger.warning("logging in with %s", SECRET)
    if context.minibatch_index % 2:
        try:
            int(SECRET)
        except ValueError as error:
            raise TroubleError from error
    return [os.path.basename(path) for path in mini_batch]


def shutdown():
    raise TroubleError
