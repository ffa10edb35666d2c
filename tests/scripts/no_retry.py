"""Says that another try cannot help."""

from counts import note

from prefect_parallel_run import NoRetry


def run(mini_batch, context):
    note("run", context.minibatch_index, context.try_number)
    raise NoRetry("never")
