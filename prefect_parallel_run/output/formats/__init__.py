"""The registry of the output formats' publishing halves; the encoding halves are in child/rows.py, by the same names."""

from prefect_parallel_run.output.formats.base import OutputFormat
from prefect_parallel_run.output.formats.orc import Orc
from prefect_parallel_run.output.formats.parquet import Parquet
from prefect_parallel_run.output.formats.text import Text

OUTPUT_FORMATS: dict[str, OutputFormat] = {
    "text": Text(" "),
    "csv": Text(","),
    "jsonl": Text(","),
    "parquet": Parquet(),
    "orc": Orc(),
}
