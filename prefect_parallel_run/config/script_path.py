"""Where the entry script is: a path or a dotted name, inside the source directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prefect_parallel_run.config.quoting import shown
from prefect_parallel_run.paths import absolute_path


def find_script(entry_script: str, source_directory: str | None) -> Path:
    """Return the script's absolute path with links resolved.

    Args:
        entry_script: Path, or dotted name, relative to *source_directory* or, without one, to the current folder.
        source_directory: Folder that the script must lie in.

    Raises:
        ValueError: There is none, or it lies outside.
    """
    folder = Path(source_directory).resolve() if source_directory is not None else None
    for candidate in _candidates(entry_script):
        path = ((folder or Path.cwd()) / candidate).resolve()
        if path.is_file():
            if folder is not None and not path.is_relative_to(folder):
                raise ValueError(
                    f"entry_script is {shown(entry_script)}, which lies outside source_directory"
                    f" {str(folder)!r}; accepted: a script inside it"
                )
            return path
    where = f"in source_directory {str(folder)!r}" if folder is not None else f"in {str(Path.cwd())!r}"
    raise ValueError(f"entry_script is {shown(entry_script)}, which does not exist {where}; accepted: a file")


def beside(entry_script: str, source_directory: str | None, folder: Path) -> dict[str, str]:
    """Return the one of the two that is relative, is not there from the current folder and is there from *folder*.

    A source directory is there where it has the script: ``./`` is in every folder. What is returned stands under its name, with
    *folder* in front; nothing where there is no such one. A file that travels with the code which it names is understood
    wherever it is read from, and what is there from the current folder counts, as ever.
    """
    several = list(_candidates(entry_script))
    if source_directory is not None:
        here, below = Path(source_directory), folder / source_directory
        has_script = [any((one / candidate).is_file() for candidate in several) for one in (here, below)]
        if has_script == [False, True] or (not any(has_script) and not here.exists() and below.is_dir()):
            return {"source_directory": absolute_path(below)}
        return {}
    if any(Path(candidate).is_file() for candidate in several):
        return {}
    there = next((folder / candidate for candidate in several if (folder / candidate).is_file()), None)
    return {} if there is None else {"entry_script": absolute_path(there)}


def _candidates(entry_script: str) -> Iterator[str]:
    yield entry_script
    if all(part.isidentifier() for part in entry_script.split(".")):
        yield f"{entry_script.replace('.', '/')}.py"
