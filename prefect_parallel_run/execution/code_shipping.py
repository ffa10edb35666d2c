"""Prepares nodes on other machines: a marker in the run directory, paths to check, and the script's bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from prefect_parallel_run._threads import CheckCancelled
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.dispatch.node_setup import RemoteSetup
from prefect_parallel_run.execution.code_archive import make_bundle
from prefect_parallel_run.node.preflight import PreflightRequest
from prefect_parallel_run.node.settings import CodeBundle, NodeSettings
from prefect_parallel_run.planning.plan import PlanReader
from prefect_parallel_run.runs.run_directory import RunDirectory
from prefect_parallel_run.runs.spec import StepSpec
from prefect_parallel_run.storage.objects import file_sha256


def prepare_remote(
    spec: StepSpec, directory: RunDirectory, settings: NodeSettings, plan: PlanReader, check_cancelled: CheckCancelled
) -> tuple[NodeSettings, RemoteSetup]:
    """Return settings for nodes that may be on other machines, and what these nodes must check and receive.

    With a source_directory, every node runs the bundled copy, so edits during the run have no effect. Without one, a node
    that can access the same script runs it in place, next to the other files there.

    Raises:
        ValueError: The script's code cannot be bundled.
    """
    bundle = make_bundle(spec.config, directory.path, check_cancelled)
    mark = f".seen-{settings.token}"
    (directory.path / mark).write_text(mark)
    preflight = PreflightRequest(
        run_directory=str(directory.path),
        mark=mark,
        places=(*spec.places, *_first_file(plan, has_any=settings.node.most_slots > 0)),
        script=settings.script.path,
        script_sha256="" if spec.config.source_directory is not None else file_sha256(spec.config.script_path),
        bundle=bundle.sha256,
    )
    script = replace(settings.script, bundle=CodeBundle(bundle.sha256, bundle.source, bundle.script))
    return replace(settings, script=script).with_node(is_kept=True), RemoteSetup(
        preflight=preflight, bundle=bundle.path, mark=directory.path / mark
    )


def _first_file(plan: PlanReader, *, has_any: bool) -> tuple[tuple[str, str], ...]:
    """Return one planned file to check: a folder with the right name may have other contents."""
    if not has_any:
        return ()
    work = json.loads(plan.works(0, 1)[0])
    table = work["tables"][0] if "tables" in work else work
    path = f"{work['root']}{work['names'][0]}" if "names" in work else str(table["path"])
    exists = not is_remote(path) and Path(path).exists()  # deleted since planning: its mini-batch will fail
    return (("input", path),) if exists else ()
