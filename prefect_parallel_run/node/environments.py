"""The cache folder of a machine, and the environments in it.

Each environment is built at most once, by the first process that needs it, completely or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from prefect_parallel_run._locks import locked
from prefect_parallel_run.environments import EnvironmentPlan, interpreter_of, without_credentials
from prefect_parallel_run.errors import EnvironmentSetupError
from prefect_parallel_run.node.child_process import describe_exit
from prefect_parallel_run.node.reaper import Guard

_POLL_INTERVAL = 0.05  #: s, for a lock that another process holds
_NAME = "prefect_parallel_run"
_VARIABLE = "PREFECT_PARALLEL_RUN_CACHE"
_MARKER = "PREFECT_PARALLEL_RUN_BUILD"
_MISLEADING = {  # these would have the installers use or fill another environment
    *("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX"),
    *("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_REQUIREMENT"),
    *("UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_TARGET", "UV_PREFIX"),
}
_QUIET = {
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1",
    "UV_NO_PROGRESS": "1",
    "CONDA_ALWAYS_YES": "true",
    "MAMBA_ALWAYS_YES": "true",
    "NO_COLOR": "1",
    "GIT_TERMINAL_PROMPT": "0",
}
_CONDAS = ("mamba", "micromamba", "conda")  #: the fastest first
_LONGEST = 3600.0  #: s for an environment; an installer must not hang forever
_BLOCK = 1 << 16
_MOST_LINES, _MOST_CHARACTERS = 30, 3000  #: of an installer's output, in errors
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
OLDEST = (3, 9)  #: oldest version that a child can run on
_PYENV = "~/.pyenv/versions"
_PRINT_VERSION = "import json, sys; print(json.dumps([*sys.version_info[:3]]))"
_PATIENCE = 60.0  #: s for an interpreter to print its version


class _Paths(NamedTuple):
    """The paths of one environment in the cache."""

    folder: Path  #: the environment; built in its final paths, because it cannot be moved
    complete: Path  #: a file in it that is written last; its modification time is the last use of the environment
    lock: Path  #: never removed: a waiting process has it open
    log: Path  #: output of the installers
    failure: Path  #: why the last build failed

    def interpreter(self) -> str | None:
        """Return the path of the environment's interpreter; None unless the environment is complete."""
        python = self.folder / "bin" / "python"
        if not self.complete.exists() or not os.access(python, os.X_OK):  # its base interpreter may have been removed since
            return None
        os.utime(self.complete)
        return str(python)


def built_interpreter(plan: EnvironmentPlan, cache: Path, stop: threading.Event) -> str:
    """Build *plan*'s environment unless *cache* has it, and return the path of its interpreter.

    Threads and processes may call this at the same time: one builds, the others wait for it and share its failure.

    Args:
        plan: The environment to build.
        cache: This machine's cache folder.
        stop: Set, from another thread, when the environment is no longer needed: installers are killed immediately.

    Raises:
        EnvironmentSetupError: The build failed (with the end of the installer's output) or was stopped, or the cache is not
            writable. A partial environment is removed.
    """

    def pause() -> None:
        if stop.wait(_POLL_INTERVAL):
            raise EnvironmentSetupError(plan.title, "stopped while waiting for another process that builds it")

    base = None if plan.conda else base_of(plan.python, plan.title, has_uv=uv_command() is not None)
    paths = _paths(plan, base, cache)
    try:
        paths.folder.parent.mkdir(mode=0o700, exist_ok=True)
        if (interpreter := paths.interpreter()) is not None:
            return interpreter
        earlier_failure = _read(paths.failure)
        with locked(paths.lock, pause) as lock:
            if (interpreter := paths.interpreter()) is not None:
                return interpreter
            failure = _read(paths.failure)
            if failure and failure != earlier_failure:  # another process failed meanwhile: a second build would fail too
                raise EnvironmentSetupError(plan.title, failure.partition("\n")[2])
            return _build(plan, base, paths, lock, stop)
    except OSError as error:
        raise EnvironmentSetupError(plan.title, f"cannot write it to the cache {cache}: {error}") from error


def _paths(plan: EnvironmentPlan, base: Base | None, cache: Path) -> _Paths:
    """Return an environment's paths, named by a hash of its plan, its base interpreter and the kind of machine."""
    base_key = None if base is None else [os.path.realpath(base.python) if "/" in base.python else "", base.version]
    machine = [sysconfig.get_platform(), *platform.libc_ver()]  # machines of several kinds may share a home
    key = hashlib.sha256(json.dumps([plan.fingerprint, base_key, machine]).encode()).hexdigest()[:32]
    folder = cache / "environments" / key
    siblings = [folder.with_suffix(suffix) for suffix in (".lock", ".log", ".failure")]
    return _Paths(folder, folder / "prefect_parallel_run.complete", *siblings)


def _build(plan: EnvironmentPlan, base: Base | None, paths: _Paths, lock: int, stop: threading.Event) -> str:
    """Build an environment while holding its lock, replacing the remains of an earlier attempt."""
    _remove(paths)
    paths.log.write_bytes(b"")
    try:
        with closing(Installer(plan, paths.folder, paths.log, lock, stop)) as installer:
            interpreter = installer.install(base)
        paths.complete.touch()
    except BaseException as error:
        _remove(paths)
        if isinstance(error, EnvironmentSetupError) and not stop.is_set():
            paths.failure.write_text(f"{secrets.token_hex(8)}\n{error.reason}", encoding="utf-8")
        raise
    return interpreter


def _remove(paths: _Paths) -> None:
    paths.complete.unlink(missing_ok=True)  # first: a partly removed environment must not look complete
    with suppress(FileNotFoundError):
        shutil.rmtree(paths.folder)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def cache_folder() -> Path:
    """Return this user's cache folder on this machine as an absolute path; it exists, is writable and private.

    It is ``$PREFECT_PARALLEL_RUN_CACHE``; without that ``prefect_parallel_run`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; if
    that is unusable (in a container without a home, say), a private folder among the temporary files.

    Raises:
        OSError: None of these folders is usable. Code in the folder runs with the user's rights, so a folder that belongs to
            another user, or that everyone may write to, is refused.
    """
    if path := os.environ.get(_VARIABLE):
        return _private(Path(os.path.expanduser(path)).absolute())  # noqa: PTH111  Path.expanduser raises without a home
    try:
        return _private(_default())
    except OSError:
        return _private(Path(tempfile.gettempdir(), f"{_NAME}-{os.getuid()}").absolute())


def _default() -> Path:
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  Path.home raises without a home
    caches = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    if not caches.is_absolute():  # the XDG specification forbids relative paths: they would depend on the working directory
        raise NotADirectoryError(f"the cache folder must be an absolute path, got {caches}")
    return caches / _NAME


def _private(folder: Path) -> Path:
    """Create *folder* if necessary and return it; raises OSError unless it belongs to this user and is writable."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    link, target = folder.lstat(), folder.stat()  # the link too: in a shared folder, another user could have created it
    if not os.getuid() == link.st_uid == target.st_uid:
        raise PermissionError(f"the cache {folder} belongs to another user; set {_VARIABLE} to a folder of your own")
    if target.st_mode & stat.S_IWOTH:
        raise PermissionError(f"the cache {folder} is writable by everyone; set {_VARIABLE} to a folder of your own")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"the cache {folder} is not writable; set {_VARIABLE} to a writable folder")
    return folder


class Installer:
    """Installs one environment. If this process dies, a reaper kills the installer and removes its temporary files.

    Args:
        plan: The environment to install.
        folder: Folder to install into; it must not exist.
        log: File that the installers' output is appended to.
        lock: Descriptor that the installers inherit, so that the folder stays locked while one of them lives.
        stop: Set when the environment is no longer needed.
    """

    def __init__(self, plan: EnvironmentPlan, folder: Path, log: Path, lock: int, stop: threading.Event) -> None:
        self._plan, self._folder, self._log, self._lock, self._stop = plan, folder, log, lock, stop
        self._deadline = time.monotonic() + _LONGEST
        self._scratch = Path(tempfile.mkdtemp(prefix="parallel_run_build_"))
        mark = f"{os.getpid()}.{self._scratch.name}"
        inherited = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
        self._environment = {**inherited, **_QUIET, "TMPDIR": str(self._scratch), _MARKER: mark}
        self._guard = Guard(f"{_MARKER}={mark}", str(self._scratch))

    def close(self) -> None:
        """Kill leftover processes and remove temporary files."""
        self._guard.close()

    def install(self, base: Base | None) -> str:
        """Install everything; *base* is None for conda, which installs its own. Return the path of the new interpreter.

        Raises:
            EnvironmentSetupError: An installer failed, is missing, or was stopped.
        """
        interpreter = self._folder / "bin" / "python"
        if base is None:
            self._install_conda()
        elif (uv := uv_command()) is not None:
            self._run([*uv, "venv", "--no-project", "--python", base.python, str(self._folder)])
        else:
            self._run([base.python, "-m", "venv", str(self._folder)])
        if self._plan.requirements:
            self._install_requirements(str(interpreter))
        version = version_of(str(interpreter))
        if version is None or version < OLDEST:
            installed = "no working Python" if version is None else f"Python {_dotted(version)}"
            raise self._error(f"{installed} was installed; expected Python {_dotted(OLDEST)} or later")
        return str(interpreter)

    def _install_conda(self) -> None:
        conda = conda_program()
        if conda is None:
            raise self._error(f"conda_file requires one of {', '.join(_CONDAS)} on PATH; this machine has none")
        file = self._scratch / "environment.yml"
        file.write_text(self._plan.conda, encoding="utf-8")
        self._run([conda, "env", "create", "-p", str(self._folder), "-f", str(file)])

    def _install_requirements(self, interpreter: str) -> None:
        file = self._scratch / "requirements.txt"
        file.write_text("".join(f"{line}\n" for line in self._plan.requirements), encoding="utf-8")
        command = [interpreter, "-m", "pip", "install", "--no-input"]
        if (uv := uv_command()) is not None:
            command = [*uv, "pip", "install", "--python", interpreter]
        self._run([*command, "-r", str(file)])

    def _run(self, command: list[str]) -> None:
        """Run an installer; raises EnvironmentSetupError with the end of its output when it fails."""
        with self._log.open("ab") as log:
            begin = log.tell()
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self._scratch,
                    env=self._environment,
                    pass_fds=[self._lock],
                    start_new_session=True,  # so that its own child processes are killed with it
                )
            except OSError as error:
                raise self._error(f"cannot run {command[0]}: {error.strerror}") from error
        status = self._wait(process, command, begin)
        if status != 0:
            raise self._error(f"{_display_name(command)} {describe_exit(status)}:\n{_output_end(self._log, begin)}")

    def _wait(self, process: subprocess.Popen[bytes], command: list[str], begin: int) -> int:
        """Return the installer's exit status; kill it and its child processes once it is stopped or takes too long."""
        try:
            while not self._stop.is_set():
                if time.monotonic() > self._deadline:
                    message = f"{_display_name(command)} was stopped: building the environment took over {_LONGEST / 60:g} min"
                    raise self._error(f"{message}:\n{_output_end(self._log, begin)}")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(_POLL_INTERVAL)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        raise self._error("the build was stopped")

    def _error(self, reason: str) -> EnvironmentSetupError:
        return EnvironmentSetupError(self._plan.title, reason)


def uv_command() -> list[str] | None:
    """Return the command of uv: from PATH, or installed for this interpreter; None when it is not installed."""
    program = shutil.which("uv")
    if program is not None:
        return [program]
    return [sys.executable, "-m", "uv"] if find_spec("uv") is not None else None


def conda_program() -> str | None:
    """Return the path of conda or a compatible program, from PATH or from the variables of a shell that is set up for it."""
    for name in _CONDAS:
        if (program := shutil.which(name)) is not None:
            return program
    return shutil.which(os.environ.get("MAMBA_EXE", "")) or shutil.which(os.environ.get("CONDA_EXE", ""))


def _display_name(command: list[str]) -> str:
    """Return a command for errors, without the folders of its paths."""
    return " ".join(Path(argument).name if argument.startswith("/") else argument for argument in command)


def _output_end(log: Path, begin: int) -> str:
    """Return the end of the output in *log* from *begin* on, shortened, as plain text without credentials."""
    with log.open("rb") as file:
        file.seek(max(begin, log.stat().st_size - _BLOCK))
        text = _CONTROL.sub("", file.read().decode("utf-8", "replace").replace("\r", "\n"))
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return without_credentials("\n".join(lines[-_MOST_LINES:])[-_MOST_CHARACTERS:]) or "it printed nothing"


class Base(NamedTuple):
    """A base interpreter."""

    python: str  #: its path; or a version that only uv could find or download
    version: str  #: such as 3.11.7, as precise as known


def base_of(python: str | None, title: str, *, has_uv: bool) -> Base:
    """Return the base interpreter of an environment.

    Args:
        python: A version (``3.11``, ``3.11.7``), a path, or None: the interpreter of this process.
        title: Name of the environment, for errors.
        has_uv: A version that is not found is left to uv, which searches more locations and can download one.

    Raises:
        EnvironmentSetupError: It does not exist or is too old; the error lists the searched locations.
    """
    if python is None:
        return Base(sys.executable, _dotted(sys.version_info[:3]))
    if "/" in python:
        path = str(interpreter_of(python))
        version = version_of(path)
        if version is None or version < OLDEST:
            problem = "does not print its version" if version is None else f"is Python {_dotted(version)}"
            raise EnvironmentSetupError(
                title, f"{path} {problem}; expected an interpreter of Python {_dotted(OLDEST)} or later"
            )
        return Base(path, _dotted(version))
    wanted = tuple(map(int, python.split(".")))
    searched: list[str] = []
    for location, candidate in _candidates(python):
        searched.append(location)
        version = version_of(candidate) if candidate is not None else None
        if candidate is not None and version is not None and version[: len(wanted)] == wanted:
            return Base(candidate, _dotted(version))
    if has_uv:
        return Base(python, python)
    raise EnvironmentSetupError(
        title, f"there is no Python {python}; looked for {', '.join(searched)}, and for uv, which could download it"
    )


def version_of(python: str) -> tuple[int, ...] | None:
    """Return the version that an interpreter reports; None when it does not run, such as a shim without an interpreter."""
    try:
        completed = subprocess.run(
            [python, "-I", "-S", "-c", _PRINT_VERSION], capture_output=True, timeout=_PATIENCE, check=True
        )
        return tuple(json.loads(completed.stdout))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _candidates(python: str) -> Iterator[tuple[str, str | None]]:
    """Yield every location where *python* (a version) is searched, and the interpreter found there."""
    program = f"python{'.'.join(python.split('.')[:2])}"
    yield f"{program} on PATH", shutil.which(program)
    folder = Path(_PYENV).expanduser()
    installed = [path for path in folder.glob(f"{python}*") if re.fullmatch(rf"{re.escape(python)}(\.\d+)?", path.name)]
    newest = max(installed, key=lambda path: [int(part) for part in path.name.split(".")], default=None)
    yield f"{_PYENV}/{python}", None if newest is None else str(newest / "bin" / "python")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
