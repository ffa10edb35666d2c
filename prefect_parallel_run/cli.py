"""The command line ``prefect-parallel-run``: go on with a run, look at it, check it, try one of its mini-batches again."""

from __future__ import annotations

import argparse
import json
import logging
import pdb
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from prefect_parallel_run import control_command
from prefect_parallel_run.errors import ParallelRunError
from prefect_parallel_run.ledger import Ledger

_FAILED, _WRONG_USE, _CANCELLED = 1, 2, 130
_OVERRIDES: dict[str, Callable[[str], Any]] = {
    "error_threshold": int,
    "allowed_failed_count": int,
    "allowed_failed_percent": float,
    "run_max_try": int,
    "run_invocation_timeout": float,
    "init_timeout": float,
    "retry_delay_seconds": float,
    "compute_target": str,
    "node_count": int,
    "node_start_timeout": float,
    "min_nodes": int,
    "process_count_per_node": int,
    "process_memory_limit": str,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code: 0 well, 1 failed, 2 wrong use, 130 cancelled."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.do(given))
    except KeyboardInterrupt:
        _say("cancelled; the ledger is kept, resume goes on from it")
        return _CANCELLED
    except ParallelRunError as error:
        _say(f"{type(error).__name__}: {error}")
        return _FAILED
    except sqlite3.Error as error:
        _say(f"{given.run_directory}: its ledger cannot be read: {error}")
        return _FAILED
    except OSError as error:
        _say(f"{error.filename or given.run_directory}: {error.strerror or error}")
        return _FAILED
    except ValueError as error:
        _say(str(error))
        return _WRONG_USE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prefect-parallel-run", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, do: Callable[[argparse.Namespace], int], words: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=words, description=words)
        command.add_argument("run_directory", help="<output>/_parallel_run/<run>, a path or a URL")
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(do=do)
        return command

    resume = add("resume", _resume, "Go on with a run from its ledger; what is finished is not run again.")
    for name, kind in _OVERRIDES.items():
        resume.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=f"other than the run's {name}")
    resume.add_argument("--retry-failed", action="store_true", help="give failed mini-batches a fresh set of tries")
    words = "plan anew where inputs, script or arguments have changed, and keep what is finished"
    resume.add_argument("--accept-changes", action="store_true", help=words)
    add("show", _show, "Print how far a run is.")
    add("failed", _failed, "Print failures by cause, the most frequent first.")
    add("verify", _verify, "Recompute a run's receipt from plan, ledger, parts and result.")
    control_command.add_to(add)
    report = add("report", _report, "Write the report of a run, as it is now.")
    report.add_argument("--output", metavar="FILE", help="other than report.html in the run directory")
    replay = add("replay", _replay, "Run one mini-batch in the foreground, without a cluster.")
    replay.add_argument("--mini-batch", type=int, required=True, metavar="N", help="its number, from 0")
    replay.add_argument("--pdb", action="store_true", help="stop in the debugger where the script raises")
    return parser


def _resume(given: argparse.Namespace) -> int:
    from prefect_parallel_run.compute.choose import target_of  # noqa: PLC0415  seconds of import that "show" does not need
    from prefect_parallel_run.observe.watch import LogWatch  # noqa: PLC0415  the same
    from prefect_parallel_run.output.reduction import reduce  # noqa: PLC0415  the same
    from prefect_parallel_run.resume import open_run_directory, spec_of  # noqa: PLC0415  the same
    from prefect_parallel_run.run import run_step  # noqa: PLC0415  the same
    from prefect_parallel_run.run_choice import Resumption  # noqa: PLC0415  the same

    directory = open_run_directory(given.run_directory)
    overrides = {name: value for name in _OVERRIDES if (value := getattr(given, name)) is not None}
    spec = spec_of(directory, overrides)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logger = logging.getLogger("prefect_parallel_run")
    logger.setLevel(spec.config.logging_level)
    resumption = Resumption(
        directory=directory, accept_changes=given.accept_changes, retry_failed=given.retry_failed, given=frozenset(overrides)
    )
    _raise_on_sigterm()
    result = run_step(
        spec, target_of(_resolved(spec.config.compute_target)), LogWatch(spec.name, logger), lambda: None, reduce, resumption
    )
    _print(result.model_dump_json(indent=2) if given.json else str(result))
    return 0


def _resolved(given: Any) -> Any:
    """Return a run's compute target with what it refers to; only then is Prefect asked."""
    if given == "local":
        return given
    from prefect_parallel_run.references import resolved_target  # noqa: PLC0415  seconds of import that "local" does not need

    return resolved_target(given)


def _raise_on_sigterm() -> None:
    """Have SIGTERM end the run as Ctrl-C does: children gone, the ledger closed."""
    import signal  # noqa: PLC0415  only here

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)


def _show(given: argparse.Namespace) -> int:
    from prefect_parallel_run.resume import open_run_directory  # noqa: PLC0415  pandas and Arrow, which --help does not need
    from prefect_parallel_run.verify import summary  # noqa: PLC0415  the same

    found = summary(open_run_directory(given.run_directory))
    if given.json:
        _print(json.dumps(found, indent=2))
        return 0
    _print(f"{found['run']}: {found['status']}" + (f" ({found['reason']})" if found["reason"] else ""))
    for name in ("mini_batches", "items"):
        counts = found[name]
        if isinstance(counts, dict):
            _print(f"  {name.replace('_', '-')}: " + ", ".join(f"{key.replace('_', ' ')} {n}" for key, n in counts.items()))
    _print(f"  between two tries: {found['waiting']}, rows: {found['rows']}, driven {found['drives']} times")
    return 0


def _failed(given: argparse.Namespace) -> int:
    from prefect_parallel_run.failures import causes  # noqa: PLC0415  the same
    from prefect_parallel_run.observe.logs import neutral  # noqa: PLC0415  the same
    from prefect_parallel_run.resume import open_run_directory  # noqa: PLC0415  the same

    with Ledger(open_run_directory(given.run_directory).ledger) as ledger:
        found = causes(ledger)
    if given.json:
        _print(json.dumps([cause._asdict() for cause in found], indent=2))
        return 0
    for cause in found:
        words = f"{cause.tries} failed tries of {cause.mini_batches} mini-batches, the first is {cause.first_mini_batch}"
        _print(f"{neutral(cause.error_type)}: {neutral(cause.error)} ({cause.outcome}; {words}; on {cause.nodes})")
        if cause.traceback:
            _print("  " + neutral(cause.traceback).rstrip().replace("\n", "\n  "))
    if not found:
        _print("nothing failed")
    return 0


def _verify(given: argparse.Namespace) -> int:
    from prefect_parallel_run.resume import open_run_directory  # noqa: PLC0415  the same
    from prefect_parallel_run.verify import problems, summary  # noqa: PLC0415  the same

    directory = open_run_directory(given.run_directory)
    found = list(problems(directory))
    if given.json:
        _print(json.dumps({**summary(directory), "problems": found}, indent=2))
    else:
        _print("\n".join(found) or f"{directory.run_id}: plan, ledger, parts and result agree")
    return _FAILED if found else 0


def _report(given: argparse.Namespace) -> int:
    from prefect_parallel_run.observe.report import write_report  # noqa: PLC0415  the same
    from prefect_parallel_run.resume import open_run_directory  # noqa: PLC0415  the same

    output = None if given.output is None else Path(given.output).absolute()
    path = write_report(open_run_directory(given.run_directory), output)
    _print(json.dumps({"report": str(path)}) if given.json else str(path))
    return 0


def _replay(given: argparse.Namespace) -> int:
    from prefect_parallel_run.replay import replay  # noqa: PLC0415  the same
    from prefect_parallel_run.resume import open_run_directory, spec_of  # noqa: PLC0415  the same

    directory = open_run_directory(given.run_directory)
    spec = spec_of(directory, {})
    if spec.interpreter is not None:
        _say(f"replayed by {sys.executable}, not by the run's environment {spec.interpreter}")

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except BaseException as error:
            if given.pdb:
                traceback.print_exception(error)
                pdb.post_mortem(error.__traceback__)
            raise

    try:
        with redirect_stdout(sys.stderr if given.json else sys.stdout):
            result = replay(directory, spec, given.mini_batch, call)
    except (ParallelRunError, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001  whatever the script raised is what the person wants to see
        traceback.print_exception(error)
        return _FAILED
    rows = result.to_string() if hasattr(result, "to_string") else "\n".join(str(row) for row in result)
    _print(json.dumps({"mini_batch": given.mini_batch, "rows": len(result), "result": rows}) if given.json else rows)
    return 0


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
