"""The result of a step: plain values, never a pickle, so that Prefect can store it as JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from prefect_parallel_run._units import count
from prefect_parallel_run.child.rows import FormatName


class ParallelRunResult(BaseModel):
    """Summary of a finished run. Passed to another step as its input, it stands for the run's output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="The step's name.")
    run_id: str = Field(description="Name of the run and of its run directory.")
    output: str | None = Field(description="Output folder, or its URL; None for a summary_only step without one.")
    output_file: str | None = Field(description="The result: a file, or a folder of parts; None for summary_only.")
    output_format: FormatName | None = Field(description="Format of its rows.")
    run_directory: str = Field(description="Folder or URL with plan, ledger, logs, parts and receipt.")
    receipt: str = Field(description="Path of receipt.json.")
    mini_batches_total: int = Field(description="Planned mini-batches.")
    mini_batches_succeeded: int = Field(description="Those with a successful attempt, or with rows of some of their items.")
    mini_batches_failed: int = Field(description="Those whose attempts are used up.")
    items_total: int = Field(description="Files, or rows of tables.")
    items_succeeded: int = Field(description="Items with a row.")
    items_failed: int = Field(description="Items of failed mini-batches, and items without a row.")
    rows: int = Field(description="Rows returned by run(), published for append_row.")
    seconds: float = Field(description="Time from the step's start to its result, this execution only; 0 if nothing ran.")
    limits: dict[str, float | None] = Field(description="Failure limits of the configuration; None for no limit.")
    reused: bool = Field(default=False, description="True if an earlier run's result was returned and nothing ran.")

    def __str__(self) -> str:
        source = "reused from an earlier run" if self.reused else f"{self.seconds:.1f} s"
        succeeded, rows = f"{self.items_succeeded:,} of {count(self.items_total, 'item')} succeeded", count(self.rows, "row")
        return (
            f"{self.name}: {succeeded}, {self.items_failed:,} failed, {rows} ({source});"
            f" result {self.output_file or self.output}, run directory {self.run_directory}"
        )

    @property
    def place(self) -> str | None:
        """Return the path or URL of the result, or of the output of a step without one."""
        return self.output_file or self.output
