"""The database of another machine, over the system's ssh; and dumps in git."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..exceptions import BackupError, confidential
from ..settings import get_settings
from .archives import SUFFIX, new_dump, new_path
from .dumping import Progress
from .programs import Surroundings, bare_environment, run_program
from .restoring import check_target, restore_database

_COMMAND = "pgdatabase dump -"
_REMOTE = re.compile(r"(?:[\w.-]+@)?(?:[\w.-]+|\[[\da-fA-F:.]+\])")
_OURS = re.compile(rf"[^./][^/]*{re.escape(SUFFIX)}(?:\.sha256)?")
# who commits, and how git reaches others; not where the repository is, which a hook would tell of its own
_OF_GIT = (
    "GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL", "GIT_SSH",
    "GIT_SSH_COMMAND", "GIT_ASKPASS", "XDG_CONFIG_HOME", "GNUPGHOME",
)  # fmt: skip
_SUM = re.compile(r"^sha256 ([0-9a-f]{64})$")


@confidential
async def sync_from(
    remote: str,
    *,
    confirm: str,
    name: str = "default",
    clean: bool = False,
    owners: bool = False,
    server: str | None = None,
    remote_directory: str | None = None,
    remote_command: str = _COMMAND,
    ssh_options: Sequence[str] = (),
    directory: str | Path = "dumps",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """
    Dump a database on *remote* ("user@host"), fetch the dump over ssh into *directory*, and restore it here.

    *remote_command* writes an archive to its stdout, there, in *remote_directory*: by default `pgdatabase dump -`, that
    also tells the checksum; `pg_dump --format=custom app` does it where the package is not. The program is the system's
    ssh, with what ~/.ssh/config says and with *ssh_options* ("-p", "2222"); set up a key, for it asks for no password.
    The rest is as for `restore_database`, whose result is returned, and which refuses before anything is fetched; the
    dump stays. Raises `BackupError` where ssh or the remote command fails, or the dump does not arrive whole.
    """
    if not _REMOTE.fullmatch(remote):
        raise BackupError(f"{remote!r} is no user@host")
    ssh = shutil.which("ssh")
    if ssh is None:
        raise BackupError("there is no ssh on this machine: install the package openssh-client")
    doing = f"fetch a dump from {remote}"
    seconds = max(2, round(get_settings(name).connection_timeout))
    command = remote_command if remote_directory is None else f"cd {shlex.quote(remote_directory)} && {remote_command}"
    arguments = [ssh, "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={seconds}", "-o", "ServerAliveInterval=15",
                 *ssh_options, "--", remote, command]  # fmt: skip
    sums: list[str] = []

    def on_line(line: str) -> None:
        if found := _SUM.match(line):
            sums.append(found[1])

    await check_target(confirm=confirm, name=name, clean=clean, server=server, doing=f"restore a dump from {remote}")
    path = new_path(Path(directory), remote.rpartition("@")[2])
    surroundings = Surroundings(bare_environment())
    with new_dump(path) as dump:
        await run_program(arguments, surroundings, doing=doing, stdout=dump.file.fileno(), on_line=on_line)
        dump.publish(await asyncio.to_thread(dump.seal, sums[-1] if sums else None))
    return await restore_database(
        path, confirm=confirm, name=name, clean=clean, owners=owners, server=server, progress=progress
    )


async def commit_dumps_to_git(
    message: str = "Update database dumps", *, directory: str | Path = "dumps", push: bool = False
) -> str | None:
    """
    Commit the dumps in *directory*, and their checksums, to the git repository that it lies in; *push* pushes, too.

    Also those that are gone. What else is staged stays so. The result is the new commit, or None where nothing has
    changed; then, too, *push* pushes, for an earlier push may have failed. A repository keeps every dump for ever, and
    all that is in it: mind who can read it. Raises `BackupError` where there is no repository, and where git refuses.
    """
    git = shutil.which("git")
    if git is None:
        raise BackupError("there is no git on this machine: install the package git")
    own = {name: os.environ[name] for name in _OF_GIT if name in os.environ}
    surroundings = Surroundings(bare_environment() | own)

    async def run(*arguments: str, doing: str = "commit") -> str:
        command = [git, "--literal-pathspecs", "-C", str(directory), *arguments]
        return (await run_program(command, surroundings, doing=f"{doing} the dumps in {directory}")).strip()

    if not await asyncio.to_thread(Path(directory).is_dir):
        raise BackupError(f"there is no directory {directory}")
    # also what is ignored elsewhere: who calls this wants dumps in the repository
    listed = await run("ls-files", "-z", "--cached", "--others")
    paths = sorted({path for path in listed.split("\0") if _OURS.fullmatch(path)})
    commit = None
    if paths:
        await run("add", "--all", "--force", "--", *paths)
        if await run("diff", "--cached", "--name-only", "--", *paths):
            await run("commit", "--quiet", f"--message={message}", "--only", "--", *paths)
            commit = await run("rev-parse", "HEAD")
    if push:
        await run("push", "--quiet", doing="push")
    return commit
