"""
The commands: what they are called, what they take, and what they print.

Each is two functions: what typer reads, and the work, which speaks through a `Terminal` and returns the exit code.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__, embedded
from ..chat_history import init_chat_history_table
from ..connect_db import get_db_connection, health_report
from ..document import init_document_table, search_documents
from ..exceptions import DatabaseError
from ..ingestion import ingest_directory
from ..migration_files import new_migration
from ..schema import migrate, migration_status, read_migrations, rollback
from ..search import text_search_configuration
from ..search.refresh import refresh_search_index
from ..settings import get_settings
from .checks import applied_migrations, run_checks
from .demo import find_own_documents, run_demo
from .dumps import dumps
from .examples import examples
from .filling import store_mock_rows, store_seed_data
from .running import Debug, Json
from .running import run_command as _run
from .stats import statistics
from .terminal import Terminal
from .views import show_check, show_file, show_files, show_health, show_hit, show_ingestion, show_server

_EPILOG = (
    "Data goes to stdout, everything else to stderr. Without settings (DATABASE_URL, POSTGRES_HOST and the like, also "
    "from .env) a private PostgreSQL is started, and stopped when its last user has left.\n\n"
    "Exit codes: 0 fine; 1 it did not work, or is unhealthy, or some files failed; 2 wrong use; 130 Ctrl-C."
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they show local variables, and those hold passwords
    rich_markup_mode="rich",
    epilog=_EPILOG,
    help="Documents, chat history and Markdown ingestion on PostgreSQL.",
)
server = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="The embedded server, by hand. Programs start it themselves where no other is configured.",
    epilog='Example: psql "$(python -m database server psql-uri)"',
)
app.add_typer(server, name="server")
app.add_typer(dumps)
app.add_typer(statistics)
app.add_typer(examples, name="examples")
migrations = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Versioned SQL files: the package's own, and those of your application in ./migrations.",
    epilog="Example: python -m database migrate new add_users && python -m database migrate up",
)
app.add_typer(migrations, name="migrate")
index = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="The search index, by hand.")
app.add_typer(index, name="index")


def _language(name: str | None) -> str | None:
    if name is not None and text_search_configuration(name) is None:
        raise typer.BadParameter(f"{name!r} is no language: use a name such as german, or a code such as de")
    return name


Language = Annotated[str | None, typer.Option(callback=_language, metavar="NAME", help="Such as german, or de.")]


def _folder(path: Path | None) -> Path | None:
    """A directory that is there; make does not expand a tilde."""
    if path is None:
        return None
    if not (folder := path.expanduser()).is_dir():
        raise typer.BadParameter(f"there is no directory {str(path)!r}")
    return folder


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: python -m database demo ~/notes")
def demo(
    folder: Annotated[
        Path | None, typer.Argument(callback=_folder, help="A folder with Markdown; else this project's own docs.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """
    See it all at work: ingestion, search, chat history, health, and what took how long.

    The documents stay, under codes that begin with demo/, and follow the folder at the next run.
    """
    if folder is None and not find_own_documents():
        raise typer.BadParameter("this installation has no documents of its own: name a folder with Markdown")
    _run(lambda terminal: run_demo(terminal, folder), as_json, debug, level=logging.WARNING)


@app.command(epilog="Example: python -m database check --json")
def check(as_json: Json = False, debug: Debug = False) -> None:
    """
    Check that everything is in place, and say how to mend what is not.

    Where a database.py of your own is in the way, start it as pgdatabase check.
    """
    _run(_check, as_json, debug, level=logging.ERROR)


async def _check(terminal: Terminal) -> int:
    checks = []
    async for result in run_checks():
        show_check(terminal, result)
        checks.append(result._asdict())
    failed = sum(each["state"] == "fail" for each in checks)
    terminal.give({"ok": not failed, "checks": checks})
    return 1 if failed else 0


@app.command(epilog="Example: python -m database init")
def init(as_json: Json = False, debug: Debug = False) -> None:
    """Create the tables document and chat_history, unless they are there."""
    _run(_init, as_json, debug)


async def _init(terminal: Terminal) -> int:
    async with get_db_connection() as conn:
        before = await applied_migrations(conn)
        await init_document_table(conn=conn)
        await init_chat_history_table(conn=conn)
        after = await applied_migrations(conn)
    report: dict[str, list[str]] = {"created": [], "already_there": []}
    for migration in read_migrations():
        if migration.version in after:
            report["already_there" if migration.version in before else "created"].append(migration.name)
    for what, names in report.items():
        for name in names:
            terminal.show(what.replace("_", " "), ("  " + name, "bold"))
    terminal.give(report)
    return 0


@app.command(epilog="Example: python -m database ingest docs --prefix manual --prune")
def ingest(
    directory: Annotated[Path, typer.Argument(metavar="DIR", callback=_folder, help="A folder with files.")],
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="What the codes of the documents begin with.")] = "",
    extension: Annotated[str, typer.Option(metavar=".EXT", help="Which files are meant.")] = ".md",
    prune: Annotated[bool, typer.Option("--prune", help="Delete the documents whose files are gone.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    atomic: Annotated[bool, typer.Option("--atomic", help="All files, or none if one fails.")] = False,
    language: Language = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """
    Store the files of a folder and of those below it as documents.

    Each gets the code PREFIX/path/below/DIR without the extension. Files that have not changed are not written.

    The table is made if it is not there.
    """
    options: dict[str, Any] = {"language": language, "prune": prune, "dry_run": dry_run, "atomic": atomic}
    _run(lambda terminal: _ingest(terminal, directory, prefix, extension, options), as_json, debug)


async def _ingest(terminal: Terminal, directory: Path, prefix: str, extension: str, options: dict[str, Any]) -> int:
    if not options["dry_run"]:
        await init_document_table()
    with terminal.bar("ingesting") as move:
        report = await ingest_directory(
            directory, prefix, extension, progress=lambda now: move(now["done"], now["total"]), **options
        )
    show_ingestion(terminal, report, dry_run=options["dry_run"])
    terminal.give(report)
    return 1 if report["failed_count"] else 0


@app.command(
    context_settings={"ignore_unknown_options": True},  # -word is a word that must not occur
    epilog="Example: python -m database search '\"connection pool\"' timeout -sqlite --limit 3",
)
def search(
    words: Annotated[list[str], typer.Argument(metavar="WORDS...", help="Any of them, best documents first.")],
    limit: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="How many documents.")] = 10,
    language: Language = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """
    Search the documents.

    Words are alternatives, "quoted words" must occur side by side, -words must not occur.
    """
    if unknown := next((word for word in words if word.startswith("--")), None):
        raise typer.BadParameter(f"no such option: {unknown}")
    _run(lambda terminal: _search(terminal, " ".join(words), limit, language), as_json, debug)


async def _search(terminal: Terminal, query: str, limit: int, language: str | None) -> int:
    began = time.perf_counter()
    rows = await search_documents(query, limit, language=language, content=False)
    for number, row in enumerate(rows, 1):
        show_hit(terminal, number, row, lines=3 if terminal.is_interactive else None)
    if not rows:
        terminal.talk("nothing found")
    logging.getLogger("database").debug("searched for %.1f ms", (time.perf_counter() - began) * 1000)
    terminal.give(rows)
    return 0


@index.command(epilog="Example: python -m database index refresh")
def refresh(as_json: Json = False, debug: Debug = False) -> None:
    """
    Bring the search index up to date.

    Documents that came by other means than this package are cut into sections, without which they are not found; and in
    large collections, lists are made that make searches for common words fast. Every ingest does the latter at its end.
    """
    _run(_refresh, as_json, debug)


async def _refresh(terminal: Terminal) -> int:
    report = await refresh_search_index()
    terminal.show(f"{report['sections']:,} sections, lists for {report['lists']:,} common words")
    if report["documents"]:
        terminal.show(f"{report['documents']:,} documents were cut into sections")
    terminal.give(report)
    return 0


@app.command(epilog="Example: python -m database health --json")
def health(
    timeout: Annotated[float, typer.Option(min=0.001, metavar="SECONDS", help="For an answer.")] = 5.0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Ask the server how it is."""
    _run(lambda terminal: _health(terminal, timeout), as_json, debug)


async def _health(terminal: Terminal, timeout: float) -> int:
    settings = get_settings()
    if not settings.names_a_server and settings.embedded == "auto":
        await embedded.start()  # its start is not part of the answer's time
    report = await health_report(timeout=timeout)
    show_health(terminal, report)
    terminal.give(report)
    return 1 if report["status"] == "unhealthy" else 0


@app.command(epilog="Example: python -m database seed tests/data/seed_projects.json")
def seed(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Tables and their rows, as JSON.")],
    schema: Annotated[str, typer.Option(metavar="NAME", help="Of tables that are named without one.")] = "public",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """
    Store the rows of a JSON file, all or none.

    The file is an object: names of tables, and lists of their rows. It may be loaded again.
    """
    _run(lambda terminal: store_seed_data(terminal, file.expanduser(), schema), as_json, debug)


@app.command(epilog="Example: python -m database mock users 1000 --seed 1")
def mock(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="That is to have rows.")],
    count: Annotated[int, typer.Argument(min=0, metavar="COUNT", help="How many.")],
    schema: Annotated[str, typer.Option(metavar="NAME", help="Of the table.")] = "public",
    chance: Annotated[int | None, typer.Option("--seed", metavar="N", help="The same number, the same rows.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the rows.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """
    Store made-up rows that hold all constraints of the table.

    Where a foreign key needs rows and there are none, some are made first.
    """
    _run(lambda terminal: store_mock_rows(terminal, table, count, schema, chance, dry_run=dry_run), as_json, debug)


@server.command(epilog="Example: python -m database server start")
def start(as_json: Json = False, debug: Debug = False) -> None:
    """Start the server and keep it, until server stop."""
    _run(_start, as_json, debug)


async def _start(terminal: Terminal) -> int:
    await embedded.start(keep=True)
    await embedded.stop()  # we do not use it: it stays because it is kept
    if get_settings().names_a_server:
        terminal.hint("your settings name another server, and that is what programs use; this one runs beside it")
    return await _status(terminal)


@server.command(epilog="Example: python -m database server stop")
def stop(
    force: Annotated[bool, typer.Option("--force", help="Also while others use it: their connections break.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Stop the server; while others use it, only keep it no longer."""
    _run(lambda terminal: _stop(terminal, force), as_json, debug)


async def _stop(terminal: Terminal, force: bool) -> int:
    stopped = await embedded.shut_down(force=force)
    report = await embedded.status()
    show_server(terminal, report)
    terminal.give(report)
    if not stopped:
        terminal.hint("it stops when the last of its users leaves; --force stops it now")
    return 0 if stopped else 1


@server.command(epilog="Example: python -m database server status --json")
def status(as_json: Json = False, debug: Debug = False) -> None:
    """Say whether the server runs, and where its data lies. Exit code 1: it does not run."""
    _run(_status, as_json, debug)


async def _status(terminal: Terminal) -> int:
    report = await embedded.status()
    show_server(terminal, report)
    terminal.give(report)
    return 0 if report["running"] else 1


@server.command("psql-uri", epilog='Example: psql "$(python -m database server psql-uri)"')
def psql_uri(as_json: Json = False, debug: Debug = False) -> None:
    """Print the URI of the running server, for psql, pg_dump and other programs."""
    _run(_psql_uri, as_json, debug)


async def _psql_uri(terminal: Terminal) -> int:
    report = await embedded.status()
    if not report["running"]:
        terminal.complain(DatabaseError("the embedded server does not run"))
        terminal.hint("python -m database server start")
        return 1
    terminal.show(report["uri"])
    terminal.give({"uri": report["uri"]})
    return 0


Directory = Annotated[Path | None, typer.Option("--dir", metavar="DIR", help="Only the files of this directory.")]
Package = Annotated[bool, typer.Option("--package", help="Only the package's own files.")]
Source = Annotated[
    str | None, typer.Option(metavar="NAME", help="What keeps the versions of several directories apart.")
]
Schema = Annotated[str | None, typer.Option(metavar="NAME", help="The schema that the tables and the record are in.")]
_MIGRATIONS = Path("migrations")


def _directories(directory: Path | None, package: bool, *, both: bool) -> list[Path | None]:
    """Whose files are meant; None: the package's own. Where nothing is said, *both*, or the application's."""
    if package and directory is not None:
        raise typer.BadParameter("--dir and --package are two things: say one of them")
    if package:
        return [None]
    if directory is not None or not both:
        return [directory or _MIGRATIONS]
    return [None, _MIGRATIONS] if _MIGRATIONS.is_dir() else [None]


def _options(directory: Path | None, source: str | None, schema: str | None) -> dict[str, Any]:
    """--source and --schema are about the application's files."""
    return {} if directory is None else {"directory": directory, "source": source, "schema": schema}


@migrations.command(epilog="Example: python -m database migrate up --dir sql")
def up(
    directory: Directory = None,
    package: Package = False,
    target: Annotated[str | None, typer.Option(metavar="VERSION", help="The last one to apply.")] = None,
    source: Source = None,
    schema: Schema = None,
    timeout: Annotated[float, typer.Option(min=0.001, metavar="SECONDS", help="For all files.")] = 600.0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """
    Apply the files that were not applied yet: the package's own, then those in ./migrations if it is there.

    Any number of processes may do so at once. A file that has changed since it was applied is an error.
    """
    directories = _directories(directory, package, both=True)
    sources = [_options(each, source, schema) for each in directories]
    sources[-1] |= {"target": target}
    _run(lambda terminal: _up(terminal, sources, timeout), as_json, debug, level=logging.WARNING)


async def _up(terminal: Terminal, sources: list[dict[str, Any]], timeout: float) -> int:
    applied: list[str] = []
    for options in sources:
        files = await migrate(timeout=timeout, **options)
        show_files(terminal, "applied", files)
        applied += files
    if not applied:
        terminal.show("nothing to do: all files are applied")
    terminal.give({"applied": applied})
    return 0


@migrations.command(epilog="Example: python -m database migrate down --steps 2")
def down(
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="How many files.")] = 1,
    directory: Directory = None,
    package: Package = False,
    source: Source = None,
    schema: Schema = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """
    Undo the last file of ./migrations that was applied, by what stands below its `-- migrate:down`.

    The package's own files, whose tables hold your documents, are undone only with --package.
    """
    (where,) = _directories(directory, package, both=False)
    options = _options(where, source, schema)
    _run(lambda terminal: _down(terminal, steps, options), as_json, debug, level=logging.WARNING)


async def _down(terminal: Terminal, steps: int, options: dict[str, Any]) -> int:
    undone = await rollback(steps, **options)
    show_files(terminal, "undone", undone)
    if not undone:
        terminal.show("nothing to do: no file is applied")
    terminal.give({"undone": undone})
    return 0


@migrations.command("status", epilog="Example: python -m database migrate status --json")
def migrate_status(
    directory: Directory = None,
    package: Package = False,
    source: Source = None,
    schema: Schema = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say which files are applied, pending, changed or missing. Exit code 1: some are not applied as they are."""
    sources = [_options(each, source, schema) for each in _directories(directory, package, both=True)]
    _run(lambda terminal: _migrate_status(terminal, sources), as_json, debug)


async def _migrate_status(terminal: Terminal, sources: list[dict[str, Any]]) -> int:
    files = [each for options in sources for each in await migration_status(**options)]
    for each in files:
        show_file(terminal, each)
    terminal.give(files)
    return 0 if all(each["state"] == "applied" for each in files) else 1


@migrations.command(epilog="Example: python -m database migrate new add_users")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the file does, such as add_users.")],
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where it is to be; made if it is not there.")
    ] = _MIGRATIONS,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a file to be filled in, with the time as its version."""
    _run(lambda terminal: _new(terminal, name, directory), as_json, debug)


async def _new(terminal: Terminal, name: str, directory: Path) -> int:
    path = new_migration(name, directory)
    terminal.show(str(path))
    terminal.give({"file": str(path)})
    return 0
