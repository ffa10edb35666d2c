"""What a step returns: facts in plain values, never a pickle, so that Prefect can keep them as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ParallelRunResult(BaseModel):
    """Facts about a finished run. Pass it to another step as its input: it stands for what the run has written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="The step's name.")
    run_id: str = Field(description="Name of the run, and of its run directory.")
    output: str | None = Field(description="Output folder, or its URL; None for a summary_only step without one.")
    output_file: str | None = Field(description="The one result file; None for summary_only.")
    output_format: Literal["text", "csv", "jsonl", "parquet"] | None = Field(description="How its rows are written.")
    run_directory: str = Field(description="Where plan, ledger, logs, parts and receipt are.")
    receipt: str = Field(description="Path of receipt.json.")
    mini_batches_total: int
    mini_batches_succeeded: int
    mini_batches_failed: int
    items_total: int = Field(description="Files, or rows of tables.")
    items_succeeded: int
    items_failed: int
    rows: int = Field(description="Rows returned by run(), published for append_row.")
    seconds: float = Field(description="Time from the step's start to its result, this driving only; 0 when nothing ran.")
    limits: dict[str, float | None] = Field(description="What the configuration forgave; None forgives everything.")
    reused: bool = Field(default=False, description="True when an earlier run's result was returned and nothing ran.")

    def __str__(self) -> str:
        words = "reused from an earlier run" if self.reused else f"{self.seconds:.1f} s"
        return (
            f"{self.name}: {self.items_succeeded} of {self.items_total} items succeeded, {self.items_failed} failed,"
            f" {self.rows} rows ({words}); result {self.output_file or self.output}, run directory {self.run_directory}"
        )

    @property
    def place(self) -> str | None:
        """Return the path or URL of the result file, or of the output when there is none."""
        return self.output_file or self.output
