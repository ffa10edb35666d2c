"""Again or give up: what one failed try means for its mini-batch. Pure."""

from __future__ import annotations

from prefect_parallel_run.models import Receipt


def try_again(receipt: Receipt, run_max_try: int) -> bool:
    """True when the mini-batch of a failed try has another one.

    ``run_max_try`` counts tries, the first included; a receipt marked final (NoRetry, an input that changed) ends them.

    >>> from prefect_parallel_run.models import Receipt
    >>> second = Receipt(7, 2, "raised", 10, 0, 10, 0, "", 0, 0, 0, 0, 0.0, 0.1)
    >>> try_again(second, 3), try_again(second, 2), try_again(second._replace(final=True), 3)
    (True, False, False)
    """
    return receipt.attempt < run_max_try and not receipt.final
