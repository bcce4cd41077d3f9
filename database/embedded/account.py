"""
Under which account PostgreSQL runs, and how its programs are started there.

PostgreSQL refuses root. As root they run as whoever owns the data, else as `postgres`, else as `nobody` (which other
services may share: create an account `postgres` where that matters). Nobody's directories but our own change hands.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..exceptions import DatabaseNotAvailableError

if os.name != "nt":
    import pwd


class Account(NamedTuple):
    """An account of the operating system."""

    uid: int
    gid: int

    @property
    def is_other(self) -> bool:
        """True where a program has to change to the account."""
        return self.uid != os.geteuid()

    @property
    def switch(self) -> dict[str, Any]:
        """The arguments of `subprocess` that change to the account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.is_other else {}


def choose_account(directory: Path) -> Account:
    """The account for the server whose data lies, or will lie, in *directory*; it need not exist."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    for place in (directory / "data", directory):
        try:
            owner = place.lstat()
        except OSError:
            continue
        if owner.st_uid != 0:
            return Account(owner.st_uid, owner.st_gid)
    for name in ("postgres", "_postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise DatabaseNotAvailableError(
        "PostgreSQL refuses to run as root, and this machine has neither an account 'postgres' nor 'nobody': "
        "create one (useradd --system postgres), run as an ordinary user, or set DATABASE_URL"
    )


def can_reach(account: Account, path: Path) -> bool:
    """True where *account* may enter the directory, or execute the program, *path*."""
    if not account.is_other:
        return os.access(path, os.X_OK)
    return run(["/bin/sh", "-c", 'test -x "$1"', "sh", str(path)], account, cwd=Path("/")).returncode == 0


def make_open_directory(path: Path) -> None:
    """
    Make *path*, and what is missing above it, so that other accounts can pass, also if the umask says no.

    Directories that were there before are left as they are.
    """
    for place in (*reversed(path.parents), path):
        try:
            place.mkdir(mode=0o755)
        except OSError:  # it is there, perhaps on a read-only file system
            if not place.is_dir():
                raise
        else:
            place.chmod(0o755)


def make_private_directory(path: Path, account: Account) -> None:
    """
    Make the directory *path* for *account* alone (0700), or make sure that it is so.

    Raises `DatabaseNotAvailableError` where it is a link, somebody else's, or open to others: server and clients trust
    each other by nothing but the fact that nobody else can enter.
    """
    try:
        path.mkdir(mode=0o700)
        made = True
    except FileExistsError:
        made = False
    found = path.lstat()
    if account.is_other and found.st_uid == 0 and stat.S_ISDIR(found.st_mode) and (made or not any(path.iterdir())):
        # also where an earlier start was killed between the two calls; nobody but root makes a directory of root's
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
    check_private_directory(path, account)


def check_private_directory(path: Path, account: Account) -> None:
    """Raises `DatabaseNotAvailableError` unless *path* is a directory, of *account*, with mode 0700, and no link."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        fault = "is not a directory"
    elif found.st_uid != account.uid:
        fault = f"belongs to uid {found.st_uid}, not to uid {account.uid}"
    elif stat.S_IMODE(found.st_mode) & 0o077:
        fault = f"has mode {stat.S_IMODE(found.st_mode):04o}, not 0700"
    else:
        return
    raise DatabaseNotAvailableError(
        f"{path} {fault}, so others could read the data or pose as the server: remove it if it is not in use, "
        "or set DB_EMBEDDED_DIR to another (short) path"
    )


class Finished(NamedTuple):
    """What a program left: its exit code and what it printed, both streams together."""

    returncode: int
    output: str


def run(
    arguments: Sequence[str], account: Account, *, cwd: Path, limit: float = 120, pass_fds: Sequence[int] = ()
) -> Finished:
    """
    Run a program to its end, in a session of its own, so that Ctrl-C in the terminal does not reach it.

    It is killed after *limit* seconds. Output goes to a file: a pipe would stay open in processes that it leaves.
    """
    with tempfile.TemporaryFile() as output:
        process = _spawn(arguments, account, cwd=cwd, output=output.fileno(), pass_fds=pass_fds)
        try:
            process.wait(limit)
        except BaseException as exc:
            process.kill()
            process.wait()
            if not isinstance(exc, subprocess.TimeoutExpired):
                raise
            output.write(f"\n{arguments[0]} was still running after {limit:.0f} s".encode())
        output.seek(0)
        return Finished(process.returncode, output.read().decode(errors="replace").strip())


def launch(
    arguments: Sequence[str], account: Account, *, cwd: Path, output: int | None = None, pass_fds: Sequence[int] = ()
) -> None:
    """Start a program that outlives us. It is nobody's child, so nobody has to reap it, and has no terminal."""
    background = ["/bin/sh", "-c", '"$0" "$@" &', *arguments]
    output = subprocess.DEVNULL if output is None else output
    _spawn(background, account, cwd=cwd, output=output, pass_fds=pass_fds).wait()


def _spawn(
    arguments: Sequence[str], account: Account, *, cwd: Path, output: int, pass_fds: Sequence[int]
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603 - programs that we have found ourselves, no shell parses their arguments
            arguments,
            cwd=cwd,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
            start_new_session=True,
            umask=0o077,
            **account.switch,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        hint = f" as uid {account.uid}, which PostgreSQL needs because it refuses root" if account.is_other else ""
        raise DatabaseNotAvailableError(
            f"cannot run {arguments[0]}{hint}: {exc}. Run as an ordinary user, or set DATABASE_URL", original_error=exc
        ) from exc


def _environment() -> Mapping[str, str]:
    """Nothing of ours: a LANG that the system lacks, PGDATA, PGPORT… must not matter. Library paths must."""
    kept = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C"} | {name: os.environ[name] for name in kept if name in os.environ}
