"""Takes what is finished in one run over into another that was planned anew, where both have the same mini-batch."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from prefect_parallel_run.models import MiniBatch
from prefect_parallel_run.planning.plan import Plan, content
from prefect_parallel_run.planning.spool import planned_in
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory


def carry_over(old: RunDirectory, new: RunDirectory, plan: Plan, ledger: Ledger) -> int:
    """Copy state, tries and rows of every mini-batch that the old plan has too, and return how many those are.

    The same means: the same input name, the same items, each with its size and time. Part files become part files of the
    new run (as links where the disk allows), so that it stands on its own.
    """
    before = {_digest(mini_batch): mini_batch.number for mini_batch in planned_in(old.plan, old.spool)}
    pairs = []
    for mini_batch in plan.mini_batches():
        number = before.get(_digest(mini_batch))
        if number is not None:
            pairs.append((number, mini_batch.number))
    prefix = f"{hashlib.sha256(old.run_id.encode()).hexdigest()[:6]}."
    for part in old.parts.iterdir():
        _link(part, new.parts / f"{prefix}{part.name}")
    return ledger.take_over(old.ledger, pairs, prefix)


def _digest(mini_batch: MiniBatch) -> bytes:
    text = content(mini_batch.input_name, mini_batch.items, mini_batch.work)
    return hashlib.blake2b(text.encode("ascii"), digest_size=16).digest()


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a disk without links
        shutil.copyfile(source, target)
