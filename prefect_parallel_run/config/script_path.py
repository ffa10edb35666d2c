"""Finds the entry script: a path or a dotted name, inside the source directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prefect_parallel_run.config.quoting import shown
from prefect_parallel_run.storage.paths import absolute_path


def find_script(entry_script: str, source_directory: str | None) -> Path:
    """Return the script's absolute path with symbolic links resolved.

    Args:
        entry_script: Path or dotted name, relative to *source_directory* or else to the current folder.
        source_directory: Folder that must contain the script.

    Raises:
        ValueError: The script does not exist, or lies outside.
    """
    folder = Path(source_directory).resolve() if source_directory is not None else None
    for candidate in _candidates(entry_script):
        path = ((folder or Path.cwd()) / candidate).resolve()
        if path.is_file():
            if folder is not None and not path.is_relative_to(folder):
                raise ValueError(
                    f"entry_script is {shown(entry_script)}, which is outside source_directory"
                    f" {str(folder)!r}; expected a script inside it"
                )
            return path
    where = f"in source_directory {str(folder)!r}" if folder is not None else f"in {str(Path.cwd())!r}"
    raise ValueError(f"entry_script is {shown(entry_script)}, which does not exist {where}; expected a file")


def find_beside(entry_script: str, source_directory: str | None, folder: Path) -> dict[str, str]:
    """Return the field whose relative path exists from *folder*, but not from the current folder.

    The result maps the field's name to its absolute path; it is empty if there is no such field. A source directory counts as
    existing if it contains the script, since ``./`` exists in every folder. This lets a configuration file that is stored with
    its code be loaded from anywhere, while paths from the current folder keep precedence.
    """
    candidates = list(_candidates(entry_script))
    if source_directory is not None:
        here, below = Path(source_directory), folder / source_directory
        has_script = [any((root / candidate).is_file() for candidate in candidates) for root in (here, below)]
        if has_script == [False, True] or (not any(has_script) and not here.exists() and below.is_dir()):
            return {"source_directory": absolute_path(below)}
        return {}
    if any(Path(candidate).is_file() for candidate in candidates):
        return {}
    script = next((folder / candidate for candidate in candidates if (folder / candidate).is_file()), None)
    return {} if script is None else {"entry_script": absolute_path(script)}


def _candidates(entry_script: str) -> Iterator[str]:
    yield entry_script
    if all(part.isidentifier() for part in entry_script.split(".")):
        yield f"{entry_script.replace('.', '/')}.py"
