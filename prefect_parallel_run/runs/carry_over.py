"""Copies the results of mini-batches that two runs share from the old run into a newly planned one."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from prefect_parallel_run.models import MiniBatch
from prefect_parallel_run.planning.plan import Plan, content, planned_mini_batches
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory


def carry_over(old: RunDirectory, new: RunDirectory, plan: Plan, ledger: Ledger) -> int:
    """Copy state, attempts and rows of every mini-batch that both plans contain; return how many had been started.

    Two mini-batches are equal when input name and items are, including each item's size and time. The new run gets its own
    part files (hard links where the file system allows), so that it does not depend on the old one.
    """
    old_numbers = {_digest(mini_batch): mini_batch.number for mini_batch in planned_mini_batches(old.plan, old.spool)}
    pairs = []
    for mini_batch in plan.mini_batches():
        number = old_numbers.get(_digest(mini_batch))
        if number is not None:
            pairs.append((number, mini_batch.number))
    prefix = f"{hashlib.sha256(old.run_id.encode()).hexdigest()[:6]}."
    for part in old.parts.iterdir():
        _link(part, new.parts / f"{prefix}{part.name}")
    return ledger.copy_from(old.ledger, pairs, prefix)


def _digest(mini_batch: MiniBatch) -> bytes:
    text = content(mini_batch.input_name, mini_batch.items, mini_batch.work)
    return hashlib.blake2b(text.encode("ascii"), digest_size=16).digest()


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
