"""Detects during a run that the rows of a mini-batch do not fit into one Parquet file with the others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prefect_parallel_run.errors import OutputError, RowsDifferError
from prefect_parallel_run.models import Receipt
from prefect_parallel_run.output.columns import Columns
from prefect_parallel_run.output.parts import PartRange, Parts
from prefect_parallel_run.output.reduction import add_files, part_ranges
from prefect_parallel_run.planning.plan import PlanReader
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory


class ColumnChecker:
    """Checks the columns of every succeeded mini-batch, including those of earlier executions.

    Unreadable rows (a network drive may show them late) are left to the reduction, which reads all rows.

    Args:
        directory: Run directory.
        plan: Plan of the run.
        ledger: Ledger of the run.
        result: The result file.

    Raises:
        RowsDifferError: The columns of the rows in the ledger differ.
    """

    def __init__(self, directory: RunDirectory, plan: PlanReader, ledger: Ledger, result: str) -> None:
        self._directory, self._plan, self._result = directory, plan, result
        self._columns = Columns()
        self._paths: dict[str, Path] = {}  # one object per part, shared by millions of ranges
        self._check(part_ranges(directory, ledger))

    def check(self, receipts: Iterable[Receipt]) -> None:
        """Check committed receipts.

        Raises:
            RowsDifferError: The columns of a receipt differ from the earlier ones; names column, mini-batches and files.
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
            for part_range in ranges:
                try:
                    if part_range.rows:
                        self._columns.add(part_range, parts)
                except RowsDifferError as error:
                    raise add_files(error, self._plan, self._result) from None
                except (OutputError, OSError):
                    continue
