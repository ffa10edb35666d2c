"""Runs an entry script in this process, to test it without a cluster, a child process or Prefect."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from prefect_parallel_run.child.entry_script import Context, EntryScript, Script, as_script, load
from prefect_parallel_run.child.event_loop import TaskNotCancelled, ThreadNotEnded
from prefect_parallel_run.child.functions import NotAnEntryScript
from prefect_parallel_run.child.input_columns import FILE_VALUES, FIRST_ROW, InputColumns, UnmatchedRows
from prefect_parallel_run.child.rows import ROW_FORMATS, FormatName, WrongType, encode, has_columns, materialize, to_frame
from prefect_parallel_run.errors import InputError

__all__ = ["NotAnEntryScript", "ScriptResult", "TaskNotCancelled", "ThreadNotEnded", "UnmatchedRows", "WrongType", "run_script"]


class ScriptResult(NamedTuple):
    """The results of an entry script, counted as a step counts them."""

    rows: list[Any]  #: in order; a row of a DataFrame, or of an array with two dimensions, is a dict
    encoded: list[bytes]  #: rows of each mini-batch as in the result file, without a header line
    items: int  #: items that the script received
    succeeded: int  #: items; every returned row stands for one item that succeeded
    failed: int  #: items without a row


def run_script(
    script: str | os.PathLike[str],
    items: Any,
    *,
    arguments: Sequence[str] = (),
    mini_batch_size: int | None = None,
    append_row_format: FormatName = "text",
    append_row_csv_options: Mapping[str, Any] | None = None,
    append_row_input_columns: Sequence[str] = (),
    side_inputs: Mapping[str, str] | None = None,
    output: str = "",
    entry_function: str | None = None,
) -> ScriptResult:
    """Call ``init()``, ``run()`` for each mini-batch and ``shutdown()`` of a script in this process.

    Exceptions of the script reach the caller: nothing is retried, and no timeout or memory limit applies. ``sys.argv``,
    ``sys.path`` and the attributes of ``EntryScript`` are restored afterwards, and the next call imports the modules in the
    script's folder again.

    Args:
        script: Path of the entry script, which can import modules from its folder.
        items: A list of paths for a script that processes files, which gets them as strings; a DataFrame for a script that
            processes a table.
        arguments: Arguments of the script.
        mini_batch_size: Items per mini-batch; None: all items are one mini-batch.
        append_row_format: Format in which the rows are encoded, as a step encodes them.
        append_row_csv_options: Options of ``pandas.DataFrame.to_csv``, for ``text`` and ``csv``.
        append_row_input_columns: Values of the items in front of the encoded rows: ``path`` and ``name`` of a file; columns of
            a DataFrame, and ``row`` for the number of a row in it.
        side_inputs: Paths by name, for ``EntryScript().side_inputs``.
        output: The step's output, for ``EntryScript().output_dir``.
        entry_function: Name of a function in the script with the decorator ``parallel_run``, to be called in place of ``run``.

    Returns:
        Rows and counts. If ``run()`` returns fewer rows than items for a mini-batch, the missing rows count as failed items.

    Raises:
        InputError: The script does not exist.
        ValueError: *mini_batch_size* is not positive, *append_row_format* is unknown, or *append_row_input_columns* has an
            unknown or ambiguous name.
        NotAnEntryScript: The script lacks a function ``run`` that can be called with a mini-batch.
        UnmatchedRows: ``run()`` did not return one row for every item, which *append_row_input_columns* requires.
        WrongType: ``run()`` returned a value without rows, or a row that is a coroutine or an exception.
        TaskNotCancelled: A task of an asynchronous script does not end when it is cancelled.
        ThreadNotEnded: A function given to ``asyncio.to_thread`` does not return after the end of the script.

    Example:
        ::

            result = run_script("score.py", ["a.jpg", "b.jpg"])
            assert result.rows == ["a.jpg 7", "b.jpg 3"]
            assert result.failed == 0
    """
    path, options = Path(script).absolute(), dict(append_row_csv_options or {})
    _check(path, mini_batch_size, append_row_format)
    columns = _checked_columns(append_row_input_columns, items)
    rows: list[Any] = []
    encoded: list[bytes] = []
    succeeded = 0
    with (
        _as_in_a_child(path, dict(side_inputs or {}), output),
        closing(load(str(path), str(path.parent), [str(argument) for argument in arguments], entry_function or "")) as module,
    ):
        module.init()
        for index, (start, mini_batch) in enumerate(_mini_batches(items, mini_batch_size)):
            count, inputs = len(mini_batch), _input_columns(columns, mini_batch, start)  # run() may change the mini-batch
            value = _run(module, index, mini_batch)
            result = encode(value, append_row_format, False, options, inputs)
            rows += _rows_of(value)
            encoded.append(result.body)
            succeeded += min(result.rows, count)
        module.shutdown()
    return ScriptResult(rows, encoded, len(items), succeeded, len(items) - succeeded)


def _check(path: Path, mini_batch_size: int | None, row_format: str) -> None:
    if not path.is_file():
        raise InputError(str(path), "does not exist; expected the path of an entry script")
    if mini_batch_size is not None and mini_batch_size < 1:
        raise ValueError(f"mini_batch_size: expected a positive integer or None, got {mini_batch_size}")
    if row_format not in ROW_FORMATS:
        raise ValueError(f"append_row_format: expected one of {', '.join(ROW_FORMATS)}, got {row_format!r}")


def _checked_columns(columns: Sequence[str], items: Any) -> list[str]:
    if isinstance(columns, str) or len(set(columns)) < len(columns):
        raise ValueError(f"append_row_input_columns: expected a list of different names, got {columns!r}")
    known = FILE_VALUES if isinstance(items, list | tuple) else (*map(str, items.columns), "row")
    for column in columns:
        if column not in known:
            raise ValueError(f"append_row_input_columns: expected one of {', '.join(dict.fromkeys(known))}, got {column!r}")
        if known.count(column) > 1:
            other = "and the number of a row has this name too" if column == "row" else "which is not unique"
            raise ValueError(f"append_row_input_columns: the DataFrame has a column {column!r}, {other}; rename the column")
    return list(columns)


def _run(module: Script, index: int, mini_batch: Any) -> Any:
    return materialize(module.run(mini_batch, Context(index, "input_0", 1, None)))


def _input_columns(columns: list[str], mini_batch: Any, start: int) -> InputColumns | None:
    """Return the input columns of a mini-batch whose first item is number *start*, or None for none."""
    if not columns:
        return None
    if isinstance(mini_batch, list):
        return InputColumns(columns, mini_batch, {"kind": "files", "root": "", "names": mini_batch})
    return InputColumns(columns, mini_batch, {"kind": "table", "rows": len(mini_batch), FIRST_ROW: start})


def _mini_batches(items: Any, size: int | None) -> Iterator[tuple[int, Any]]:
    """Yield the number of the first item, and the items, of each mini-batch."""
    size = size or max(len(items), 1)
    for start in range(0, len(items), size):
        if isinstance(items, list | tuple):
            yield start, [str(item) if isinstance(item, Path) else item for item in items[start : start + size]]
        else:  # a DataFrame; a step numbers the rows of every mini-batch from 0
            yield start, items.iloc[start : start + size].reset_index(drop=True)


def _rows_of(value: Any) -> list[Any]:
    if has_columns(value):
        rows: list[Any] = to_frame(value).to_dict("records")
        return rows
    return list(value) if isinstance(value, list | tuple) else list(value.tolist())


@contextmanager
def _as_in_a_child(script: Path, side_inputs: dict[str, str], output: str) -> Iterator[None]:
    """Set what a child sets for its script, and restore it afterwards."""
    argv, path, modules = sys.argv, sys.path[:], set(sys.modules)
    attributes = {"agent_name": "test", "dir": str(script.parent), "output_dir": output, "side_inputs": side_inputs}
    before = {name: getattr(EntryScript, name) for name in attributes}
    for name, value in attributes.items():
        setattr(EntryScript, name, value)
    try:
        with as_script():
            yield
    finally:
        for name, value in before.items():
            setattr(EntryScript, name, value)
        sys.argv, sys.path[:] = argv, path
        for name in set(sys.modules) - modules:
            if _is_below(sys.modules[name], script.parent):  # libraries stay: many cannot be imported twice
                del sys.modules[name]


def _is_below(module: Any, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).is_relative_to(folder)
