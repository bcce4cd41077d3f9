"""The commands about dumps: dump, restore, sync, and the workflows that are made of them."""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from ..backup import commit_dumps_to_git, dump_database, list_dumps, restore_database, sync_from
from ..backup.restoring import check_target
from ..exceptions import BackupError, DatabaseError
from ..settings import get_settings
from .running import Debug, Json, run_command
from .terminal import Terminal, format_bytes, format_seconds

dumps = typer.Typer()
workflow = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="What is often done in a row.",
    epilog="Example: python -m database workflow dump-and-commit --push",
)
dumps.add_typer(workflow, name="workflow")

Name = Annotated[str, typer.Option(metavar="NAME", help="The database of <NAME>_DATABASE_URL.")]
Directory = Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where the dumps are.")]
Confirm = Annotated[
    str | None,
    typer.Option(metavar="DATABASE", help="The name of the database that is replaced; else it is asked for."),
]
Clean = Annotated[bool, typer.Option("--clean", help="Also where it is not empty: all that it holds is replaced.")]
Server = Annotated[
    str | None, typer.Option(metavar="HOST", help="The server; it has to be named if it is another machine.")
]
_DUMPS = Path("dumps")
_STDOUT = "-"


@dumps.command(epilog="Example: python -m database dump --dir backups")
def dump(
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="A new file, or - for stdout; else one in --dir.")
    ] = None,
    directory: Directory = _DUMPS,
    name: Name = "default",
    show_list: Annotated[bool, typer.Option("--list", help="Only list the dumps in --dir.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """
    Dump the database into a file of mode 0600, with its checksum beside it.

    The file appears when it is whole. A dump is what pg_dump --format=custom writes.
    """
    if file == _STDOUT and as_json:
        raise typer.BadParameter("--json and a dump cannot both go to stdout")
    if show_list:
        run_command(lambda terminal: _list(terminal, directory), as_json, debug)
    run_command(lambda terminal: _dump(terminal, file, directory, name), as_json, debug, level=logging.WARNING)


async def _list(terminal: Terminal, directory: Path) -> int:
    found = list_dumps(directory)
    for each in found:
        made: datetime = each["created_at"]
        about = f"  {made:%Y-%m-%d %H:%M:%S}  {format_bytes(each['bytes'])}  {each['database']}"
        terminal.show((each["path"], "bold"), about)
    if not found:
        terminal.talk(f"no dumps in {directory}")
    terminal.give(found)
    return 0


async def _dump(terminal: Terminal, file: str | None, directory: Path, name: str) -> int:
    if file == _STDOUT:
        return await _dump_to_stdout(terminal, name)
    report = await _make_dump(terminal, file, directory, name)
    terminal.give(report)
    return 0


async def _make_dump(terminal: Terminal, file: str | None, directory: Path, name: str) -> dict[str, Any]:
    with terminal.bar("dumping") as move:
        report = await dump_database(
            file, directory=directory, name=name, progress=lambda now: move(now["done"], now["total"])
        )
    size, took = format_bytes(report["bytes"]), format_seconds(report["seconds"])
    terminal.show((report["path"], "bold"), f"  {report['tables']} tables, {size} in {took}")
    return report


async def _dump_to_stdout(terminal: Terminal, name: str) -> int:
    """Whole or not at all, there, too: first into a file; the checksum goes before it, on stderr."""
    with tempfile.TemporaryDirectory(prefix="pgdatabase-") as temporary:
        report = await dump_database(directory=temporary, name=name)
        terminal.talk(f"sha256 {report['sha256']}")
        _copy_to_stdout(Path(report["path"]))
    return 0


def _copy_to_stdout(path: Path) -> None:
    with path.open("rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()


@dumps.command(epilog="Example: python -m database restore --latest --clean")
def restore(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A dump.")] = None,
    latest: Annotated[bool, typer.Option("--latest", help="The newest one in --dir.")] = False,
    directory: Directory = _DUMPS,
    name: Name = "default",
    confirm: Confirm = None,
    clean: Clean = False,
    no_owners: Annotated[bool, typer.Option("--no-owners", help="Without owners and grants.")] = False,
    server: Server = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """
    Make the database what a dump holds: beside it first, then in its place, whole or not at all.

    Restore only what you trust: a dump is code.
    """
    if (file is None) != latest:
        raise typer.BadParameter("name a dump, or say --latest")
    dump = file or _latest(directory)
    confirmed = _ask_for_name(confirm, name, f"restore {dump}")
    options = {"confirm": confirmed, "name": name, "clean": clean, "owners": not no_owners, "server": server}
    run_command(lambda terminal: _restore(terminal, dump, options), as_json, debug)


def _latest(directory: Path) -> Path:
    found = list_dumps(directory)
    if not found:
        raise typer.BadParameter(f"there are no dumps in {directory}")
    return Path(found[0]["path"])


async def _restore(terminal: Terminal, file: Path, options: dict[str, Any]) -> int:
    with terminal.bar("restoring") as move:
        report = await restore_database(file, **options, progress=lambda now: move(now["done"], now["total"]))
    _show_restored(terminal, report)
    return 0


def _show_restored(terminal: Terminal, report: dict[str, Any]) -> None:
    what = "replaced by" if report["replaced"] else "made of"
    took = format_seconds(report["seconds"])
    terminal.show((report["database"], "bold"), f"  {what} {report['path']}, {report['tables']} tables in {took}")
    terminal.give(report)


@dumps.command(epilog="Example: python -m database sync me@laptop --remote-dir shop --clean")
def sync(
    remote: Annotated[str, typer.Argument(metavar="USER@HOST", help="As for ssh; it needs a key, not a password.")],
    remote_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="The directory of the project there, with its .env.")
    ] = None,
    remote_command: Annotated[
        str, typer.Option(metavar="COMMAND", help="What writes a dump to stdout there.")
    ] = "pgdatabase dump -",
    ssh: Annotated[str, typer.Option(metavar="OPTIONS", help="For ssh, such as '-p 2222'.")] = "",
    directory: Directory = _DUMPS,
    name: Name = "default",
    confirm: Confirm = None,
    clean: Clean = False,
    owners: Annotated[bool, typer.Option("--owners", help="With owners and grants, whose roles must be here.")] = False,
    server: Server = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fetch the database of another machine over ssh, and restore it here."""
    try:
        ssh_options = shlex.split(ssh)
    except ValueError as exc:
        raise typer.BadParameter(f"--ssh: {exc}") from exc
    options: dict[str, Any] = {
        "confirm": _ask_for_name(confirm, name, f"restore the database of {remote}"),
        "name": name, "clean": clean, "owners": owners, "server": server, "directory": directory,
        "remote_directory": remote_dir, "remote_command": remote_command, "ssh_options": ssh_options,
    }  # fmt: skip
    run_command(lambda terminal: _sync(terminal, remote, options), as_json, debug)


async def _sync(terminal: Terminal, remote: str, options: dict[str, Any]) -> int:
    with terminal.bar(f"syncing from {remote}") as move:
        report = await sync_from(remote, **options, progress=lambda now: move(now["done"], now["total"]))
    _show_restored(terminal, report)
    return 0


@workflow.command("refresh-test", epilog="Example: python -m database workflow refresh-test --confirm app_test")
def refresh_test(
    source: Annotated[str, typer.Option("--from", metavar="NAME", help="The database that is dumped.")] = "default",
    target: Annotated[str, typer.Option("--to", metavar="NAME", help="The database that is replaced.")] = "test",
    confirm: Confirm = None,
    server: Server = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make the test database (TEST_DATABASE_URL) a copy of the other one, with everything in it replaced."""
    confirmed = _ask_for_name(confirm, target, "refresh the test database")
    run_command(lambda terminal: _refresh_test(terminal, source, target, confirmed, server), as_json, debug)


async def _refresh_test(terminal: Terminal, source: str, target: str, confirm: str, server: str | None) -> int:
    if source == target:
        raise BackupError("--from and --to are the same database")
    await check_target(confirm=confirm, name=target, clean=True, server=server, doing="refresh the test database")
    with tempfile.TemporaryDirectory(prefix="pgdatabase-") as temporary:
        report = await _make_dump(terminal, None, Path(temporary), source)
        if report["database"] == confirm and get_settings(source).redacted_url == get_settings(target).redacted_url:
            raise BackupError(f"{source} and {target} are the same database, {confirm}")
        options = {"confirm": confirm, "name": target, "clean": True, "server": server}
        return await _restore(terminal, Path(report["path"]), options)


@workflow.command("dump-and-commit", epilog="Example: python -m database workflow dump-and-commit --push")
def dump_and_commit(
    message: Annotated[str, typer.Option(metavar="TEXT", help="Of the commit.")] = "Update database dumps",
    push: Annotated[bool, typer.Option("--push", help="Push the commit, too.")] = False,
    directory: Directory = _DUMPS,
    name: Name = "default",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Dump the database and commit the dumps to the git repository that they lie in."""
    run_command(
        lambda terminal: _dump_and_commit(terminal, message, push, directory, name),
        as_json,
        debug,
        level=logging.WARNING,
    )


async def _dump_and_commit(terminal: Terminal, message: str, push: bool, directory: Path, name: str) -> int:
    report = await _make_dump(terminal, None, directory, name)
    commit = await commit_dumps_to_git(message, directory=directory, push=push)
    terminal.show("pushed " if push else "committed ", (str(commit)[:12], "bold"))
    terminal.give(report | {"commit": commit})
    return 0


def _ask_for_name(confirm: str | None, name: str, doing: str) -> str:
    """The name of the database, as the user types it."""
    if confirm is not None:
        return confirm
    if not sys.stdin.isatty():
        raise typer.BadParameter("say --confirm DATABASE, the name of the database: there is nobody to ask")
    try:
        settings = get_settings(name)
        where = settings.redacted_url if settings.names_a_server else "the embedded server"
    except DatabaseError as exc:
        where = str(exc)
    sys.stderr.write(f"{doing}, into {where}\nThe name of the database that is replaced: ")
    sys.stderr.flush()
    try:
        return sys.stdin.readline().strip()
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
