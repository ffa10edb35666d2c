"""Entry script: one row out for every row in."""

from __future__ import annotations

import pandas as pd


def run(mini_batch: pd.DataFrame) -> pd.DataFrame:
    """Return patient, risk and whether it is high."""
    risk = (mini_batch["bmi"] * mini_batch["bp"] / mini_batch["s3"]).round(3)
    return pd.DataFrame({"patient": mini_batch["patient"], "risk": risk, "high": risk > 60})
