"""The program: its commands, each loaded when it is used, and ``--help``."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Sequence
from typing import cast

import click

from prefect_parallel_run.cli._command import MEANING, PROGRAM, RUN_DIR, BrokenOutputError, Exit, guard_standard_streams, notify

#: The commands in the order of --help: module of this package and function, and a short help.
COMMANDS = {
    "run": ("run:run", "Run a step as a Prefect flow run."),
    "plan": ("run:plan", "Print what a run would do, without running anything."),
    "try": ("try_out:try_out", "Run a few mini-batches in one process; estimate the whole run."),
    "show": ("show:show", "Print the progress of a run; follow it while it executes."),
    "list": ("show:list_runs", "List the runs of an output, newest first."),
    "failed": ("failed:failed", "Print failures by cause, or the failed items."),
    "control": ("control:control", "Pause a running step, or change its limits or processes."),
    "resume": ("resume:resume", "Resume a run; completed mini-batches do not run again."),
    "replay": ("replay:replay", "Run one mini-batch in the foreground."),
    "verify": ("report:verify", "Check a run against its plan, ledger, parts and result."),
    "report": ("report:report", "Write the report of a run as one HTML page."),
    "import": ("azure_import:import_file", "Convert an Azure ML file to Python code."),
}


class Program(click.Group):
    """Loads the module of a command when the command is used; ``--help`` loads no command's module."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the names of the commands, in the order of ``--help``."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Return a command; a usage error for an unknown one."""
        if cmd_name not in COMMANDS:
            ctx.fail(f"{cmd_name!r} is not a command; expected one of {', '.join(COMMANDS)}")
        return cast("click.Command", pkgutil.resolve_name(f"{__package__}.{COMMANDS[cmd_name][0]}"))

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their short help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, short_help) for name, (_, short_help) in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what RUN_DIR, --json and the exit codes mean."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(f"{code:>3}", meaning) for code, meaning in MEANING.items()])
        super().format_epilog(ctx, formatter)


program = Program(
    help="Parallel batch processing as a Prefect task: run a script over a large input; inspect, resume and verify runs.",
    epilog=f"{RUN_DIR}\n\nWith --json, stdout has exactly one JSON document; an error is"
    ' {"error": {"type", "message", …}, "next": […]}.',
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; raise SystemExit after ``--help`` and for a usage error."""
    guard_standard_streams()
    try:
        with program.make_context(PROGRAM, list(sys.argv[1:] if arguments is None else arguments)) as context:
            code = int(program.invoke(context))
            sys.stdout.flush()  # what a replayed script has printed
            return code
    except click.exceptions.Exit as end:  # --help
        sys.exit(end.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # during the import of a command's modules
        notify("cancelled")
        return Exit.CANCELLED
    except BrokenOutputError:  # --help | head
        return Exit.BROKEN_PIPE
