"""Reports during a run that the rows of a mini-batch cannot stand in one Parquet file with those of the others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prefect_parallel_run.errors import OutputError, RowsDifferError
from prefect_parallel_run.models import Receipt
from prefect_parallel_run.output.columns import Columns
from prefect_parallel_run.output.parts import PartRange, Parts
from prefect_parallel_run.output.reduction import part_ranges, with_files
from prefect_parallel_run.planning.plan import PlanReader
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory


class ColumnWatch:
    """Checks the columns of every mini-batch that succeeds, and of those that succeeded before the run was resumed.

    The rows of a part that cannot be read (a network drive may show them late) are left to the reduction, which reads all.

    Args:
        directory, plan, ledger: Of the run.
        result: The result file.

    Raises:
        RowsDifferError: The rows that the ledger has do not fit together.
    """

    def __init__(self, directory: RunDirectory, plan: PlanReader, ledger: Ledger, result: str) -> None:
        self._directory, self._plan, self._result = directory, plan, result
        self._columns = Columns()
        self._paths: dict[str, Path] = {}  # one object per part: millions of ranges lie in few
        self._check(part_ranges(directory, ledger))

    def check(self, receipts: Iterable[Receipt]) -> None:
        """Check committed receipts.

        Raises:
            RowsDifferError: The rows of one do not fit those before; names column, mini-batches and their files.
        """
        self._check(
            PartRange(
                receipt.mini_batch,
                self._paths.get(receipt.part) or self._paths.setdefault(receipt.part, self._directory.parts / receipt.part),
                receipt.offset,
                receipt.header,
                receipt.length,
                receipt.crc,
                receipt.rows,
            )
            for receipt in receipts
            if receipt.part
        )

    def _check(self, ranges: Iterable[PartRange]) -> None:
        with Parts() as parts:
            for found in ranges:
                try:
                    if found.rows:
                        self._columns.add(found, parts)
                except RowsDifferError as error:
                    raise with_files(error, self._plan, self._result) from None
                except (OutputError, OSError):
                    continue
