"""The program: what it prints where, with which exit code, for people, for programs and for terminals."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import asyncpg
import pytest
from typer.testing import CliRunner

import database as db
from database import embedded
from database.cli.commands import app
from database.settings import Settings

from .program import PROGRAM, environment, run, run_in_terminal, start, write_files

COMMANDS = (
    "demo", "check", "init", "ingest", "search", "health", "seed", "mock",
    "server start", "server stop", "server status", "server psql-uri",
    "migrate up", "migrate down", "migrate status", "migrate new",
    "dump", "restore", "sync", "workflow refresh-test", "workflow dump-and-commit", "stats",
    "examples list", "examples run", "index refresh",
)  # fmt: skip
NOBODY = {"DATABASE_URL": "postgresql://somebody:geheim@localhost:1/x", "DB_CONNECTION_TIMEOUT": "0.2"}


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder with two good files."""
    return write_files(
        tmp_path / "notes",
        {"pool.md": "# The pool\nA pool waits.\n", "sub/retry.md": "# Retry\nTo retry is to wait.\n"},
    )


# --- what does not need a server


def test_help_documents_the_exit_codes() -> None:
    """Without a command the program says what there is, and what its exit codes mean."""
    result = run("--help")
    assert result.code == 0
    text = " ".join(result.out.split())
    for word in ("demo", "check", "init", "ingest", "search", "health", "server", "migrate"):
        assert word in text
    assert "Exit codes: 0 fine; 1 it did not work" in text and "2 wrong use" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    """The help of each command shows one call of it, and knows --json."""
    result = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"python -m database {command}" in result.output and "Example: " in result.output
    assert "--json" in result.output


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_extra_the_program_names_it(missing: str) -> None:
    """One line with the pip command, exit code 2, no traceback."""
    program = f"import sys, runpy; sys.modules[{missing!r}] = None; runpy.run_module('database', run_name='__main__')"
    finished = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr == f"error: the commands need {missing}: pip install 'pgdatabase[cli]'\n"


def test_wrong_use_is_exit_code_2(tmp_path: Path) -> None:
    """A missing argument, a directory that is not there, an unknown command, a mistyped option."""
    for arguments in (["ingest"], ["ingest", str(tmp_path / "gone")], ["searhc"], ["search", "x", "--limt", "3"]):
        outcome = CliRunner().invoke(app, arguments)
        assert outcome.exit_code == 2 and "Usage:" in outcome.output, outcome.output
    result = run("ingest")
    assert (result.code, result.out) == (2, "")
    assert "Missing argument" in result.err and "Traceback" not in result.err


# --- commands


async def test_init_makes_the_tables_once(empty_database: Settings) -> None:
    """The first run creates, the second says that they are there."""
    assert run("init", "--json", settings=empty_database).json == {
        "created": ["document", "chat_history", "search_words", "document_section"],
        "already_there": [],
    }
    again = run("init", settings=empty_database)
    assert again.code == 0
    assert again.out.splitlines() == [
        f"already there  {name}" for name in ("document", "chat_history", "search_words", "document_section")
    ]
    assert await db.get_document_count() == 0


async def test_seed_and_mock_fill_tables(database: Settings, tmp_path: Path) -> None:
    """From a file, or made up; the same number makes the same rows, and --dry-run stores none."""
    file = tmp_path / "seed.json"
    file.write_text('{"document": [{"code": "a", "name": "n", "content": "t"}]}')
    for _ in range(2):
        assert run("seed", file, settings=database).out == "1 of document\n"
    assert run("seed", file, "--json", settings=database).json == {"document": 1}
    assert run("mock", "document", 30, "--json", settings=database).json == {"table": "document", "rows": 30}
    assert await db.get_document_count() == 31
    rows = [run("mock", "document", 2, "--seed", 1, "--dry-run", "--json", settings=database).json for _ in range(2)]
    assert rows[0] == rows[1] and len(rows[0]) == 2
    assert run("mock", "document", 2, "--dry-run", settings=database).out.count("code=") == 2
    assert await db.get_document_count() == 31
    for wrong in (
        ["seed", tmp_path / "nothing.json"],
        ["mock", "nothing", 1],
        ["mock", "document", 1, "--schema", "x"],
    ):
        result = run(*wrong, settings=database)
        assert result.code == 1 and result.err.startswith("error: "), result


async def test_migrate_applies_and_undoes_the_files_of_an_application(empty_database: Settings, tmp_path: Path) -> None:
    """Those in ./migrations behind the package's own; status says what there is, and down leaves the package alone."""
    assert run("migrate", "status", settings=empty_database).out.startswith("pending  database     0001_document.sql\n")
    made = run("migrate", "new", "Add users!")
    assert made.code == 0 and re.fullmatch(r"migrations/\d{14}_add_users\.sql\n", made.out), made
    file = Path(made.out.strip())
    assert file.read_text() == "-- migrate:up\n\n\n-- migrate:down\n\n"
    file.write_text("-- migrate:up\nCREATE TABLE users ();\n-- migrate:down\nDROP TABLE users;\n")

    done = run("migrate", "up", settings=empty_database)
    assert done.code == 0 and done.out.startswith("applied  0001_document.sql\napplied  0002_chat_history.sql\n")
    assert done.out.endswith(f"applied  {file.name}\n") and done.err == ""
    assert run("migrate", "up", settings=empty_database).out == "nothing to do: all files are applied\n"
    status = run("migrate", "status", "--json", settings=empty_database)
    assert status.code == 0 and {each["state"] for each in status.json} == {"applied"}
    assert [each["source"] for each in status.json][::-1][:2] == ["application", "database"]

    assert run("migrate", "down", "--steps", "9", "--json", settings=empty_database).json == {"undone": [file.name]}
    assert run("migrate", "down", settings=empty_database).out == "nothing to do: no file is applied\n"
    assert run("migrate", "status", "--package", settings=empty_database).code == 0
    assert run("migrate", "status", settings=empty_database).code == 1
    undone = run("migrate", "down", "--package", settings=empty_database).out
    assert undone == f"undone  {status.json[-2]['file']}\n"


async def test_migrate_says_what_is_wrong(empty_database: Settings, tmp_path: Path) -> None:
    """One line with the file and the line in it; wrong use is exit code 2."""
    write_files(tmp_path / "sql", {"0001_x.sql": "-- migrate:up\nCREATE TABLE x ();\nCREATE TABLE x ();\n"})
    wrong = run("migrate", "up", "--dir", "sql", settings=empty_database)
    assert (wrong.code, wrong.out) == (1, "")
    assert wrong.err == 'error: cannot apply 0001_x.sql, line 3: relation "x" already exists [42P07]\n'
    gone = run("migrate", "down", settings=empty_database)
    assert gone.code == 1 and "there is no directory 'migrations'" in gone.err
    both = run("migrate", "up", "--dir", "sql", "--package", settings=empty_database)
    assert both.code == 2 and "say one of them" in both.err


async def test_ingest_stores_and_then_finds_nothing_to_do(empty_database: Settings, notes: Path) -> None:
    """It makes the table, stores each file under its code, and writes nothing the second time."""
    first = run("ingest", notes, "--prefix", "n", "--json", settings=empty_database)
    assert first.code == 0, first
    assert (first.json["inserted"], first.json["failed_count"], first.json["failures"]) == (2, 0, [])
    document = await db.get_document_by_code("n/sub/retry")
    assert document is not None and document["name"] == "Retry"

    again = run("ingest", notes, "--prefix", "n", settings=empty_database)
    assert again.code == 0
    assert "nothing to do: all 2 unchanged" in again.out


async def test_ingest_follows_the_folder(database: Settings, notes: Path) -> None:
    """--dry-run only says it, --prune deletes what is gone, --extension says which files are meant."""
    run("ingest", notes, settings=database)
    (notes / "pool.md").unlink()
    (notes / "new.txt").write_text("plain")
    dry = run("ingest", notes, "--prune", "--dry-run", settings=database)
    assert "dry run: 1 deleted, 1 unchanged" in dry.out
    assert await db.get_document_count() == 2
    assert "1 deleted, 1 unchanged" in run("ingest", notes, "--prune", settings=database).out
    assert "1 inserted" in run("ingest", notes, "--extension", ".txt", settings=database).out
    assert sorted(row["code"] for row in await db.get_list_of_documents()) == ["new", "sub/retry"]


async def test_files_that_fail_are_told_and_counted(database: Settings, notes: Path) -> None:
    """The first five with their reasons on stderr, the others as a number, exit code 1; --json has all of them."""
    write_files(notes, {f"bad{number}.md": b"\xff" for number in range(7)})
    result = run("ingest", notes, settings=database)
    assert result.code == 1
    assert "2 inserted, 7 failed" in result.out
    assert result.err.count("not UTF-8: byte 0xff at position 0") == 5
    assert "and 2 more" in result.err

    atomic = run("ingest", notes, "--prefix", "all", "--atomic", "--json", settings=database)
    assert atomic.code == 1
    assert len(atomic.json["failures"]) == 7 and atomic.json["type"] == "IngestionError"
    assert await db.get_document_count() == 2


async def test_search_answers_people_and_programs(database: Settings, tmp_path: Path) -> None:
    """Ranked, with code and highlighted snippet; as JSON with ISO 8601 times; -words exclude; --limit confines."""
    await db.insert_document("Pool", "a", "the connection pool waits")
    await db.insert_document("Lite", "b", "a connection to sqlite")
    text = run("search", "connection", "-sqlite", settings=database)
    assert text.code == 0
    lines = text.out.splitlines()
    assert lines[0].startswith(" 1  Pool") and lines[1:] == ["    a", "    the *connection* pool waits"]

    rows = run("search", "connection", "--json", settings=database).json
    assert {row["code"] for row in rows} == {"a", "b"}
    assert datetime.fromisoformat(rows[0]["created_at"]).tzinfo is not None
    assert len(run("search", "connection", "--limit", "1", "--json", settings=database).json) == 1

    nothing = run("search", "elephant", settings=database)
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "nothing found\n")


async def test_data_in_a_pipe_is_whole(database: Settings) -> None:
    """However narrow the terminal was said to be: no line is broken or cut."""
    name = "A title that goes on " * 20
    await db.insert_document(name.strip(), "some/long/code/" * 10, "content " * 30)
    lines = run("search", "content", settings=database, variables={"COLUMNS": "30"}).out.splitlines()
    assert len(lines) == 3
    assert name.strip() in lines[0] and "some/long/code/" * 10 in lines[1]


async def test_health_speaks_with_its_exit_code(database: Settings) -> None:
    """0 and the report where the server answers, 1 where it does not; never a password."""
    report = run("health", "--json", settings=database).json
    assert report["status"] == "healthy"
    assert "status   healthy\n" in run("health", settings=database).out
    ill = run("health", variables=NOBODY)
    assert ill.code == 1
    assert "status   unhealthy\n" in ill.out and "geheim" not in ill.out + ill.err


def test_the_embedded_server_by_hand(tmp_path: Path) -> None:
    """start keeps it, psql-uri leads to it, stop stops it; status tells by its exit code, too."""
    there = {"DB_EMBEDDED_DIR": str(tmp_path / "server")}
    assert run("server", "status", variables=there).code == 1
    missing = run("server", "psql-uri", variables=there)
    assert missing.code == 1
    assert missing.err.startswith("error: the embedded server does not run\nhint: ")
    try:
        started = run("server", "start", "--json", variables=there)
        assert started.code == 0 and started.json["kept"] and started.json["users"] in ([], None)
        assert run("server", "status", variables=there).code == 0
        uri = run("server", "psql-uri", variables=there).out.strip()
        assert run("server", "psql-uri", "--json", variables=there).json == {"uri": uri}

        async def ask() -> object:
            connection = await asyncpg.connect(uri)
            try:
                return await connection.fetchval("SELECT 1")
            finally:
                await connection.close()

        assert asyncio.run(ask()) == 1
    finally:
        stopped = run("server", "stop", variables=there)
    assert stopped.code == 0 and "not running" in stopped.out


async def test_a_server_in_use_goes_on_unless_forced(tmp_path: Path) -> None:
    """stop says so and exits with 1; --force stops it all the same."""
    there = {"DB_EMBEDDED_DIR": str(tmp_path / "server")}
    uri = await embedded.start(tmp_path / "server")
    connection = await asyncpg.connect(uri)
    refused = run("server", "stop", variables=there)
    assert refused.code == 1 and "--force" in refused.err
    assert await connection.fetchval("SELECT 1") == 1
    assert run("server", "stop", "--force", variables=there).code == 0
    connection.terminate()
    await embedded.stop(tmp_path / "server")


# --- errors


async def test_an_error_is_one_line(empty_database: Settings) -> None:
    """Red for people, a document for programs, a traceback only with --debug, a hint where there is one."""
    result = run("search", "x", settings=empty_database)
    assert (result.code, result.out) == (1, "")
    error, hint = result.err.splitlines()
    assert error.startswith("error: cannot search documents: ") and hint.startswith("hint: python -m database init")

    document = run("search", "x", "--json", settings=empty_database)
    assert document.code == 1
    assert document.json["type"] == "DocumentError" and document.json["sqlstate"] == "42P01"
    assert "Traceback" in run("search", "x", "--debug", settings=empty_database).err

    wrong = run("search", "x", variables={"DB_MAX_CONNECTIONS": "none"})
    assert wrong.code == 1
    assert wrong.err.startswith("error: wrong settings: DB_MAX_CONNECTIONS: ") and wrong.err.count("\n") == 1


def test_an_unreachable_server_is_an_error_without_its_password() -> None:
    """The line names the address, not the password; the exit code is 1."""
    result = run("init", variables=NOBODY)
    assert result.code == 1
    assert result.err.splitlines()[-1].startswith("error: cannot connect to postgresql://somebody@localhost:1/x")
    assert "geheim" not in result.err and "Traceback" not in result.err


async def test_a_reader_that_leaves_is_no_traceback(database: Settings) -> None:
    """`| head -1`: silence and exit code 1; a full disk: one line."""
    await db.insert_document("Pool", "a", "the connection pool waits")
    for arguments in (["search", "pool"], ["search", "pool", "--json"]):
        read, write = os.pipe()
        os.close(read)
        result = subprocess.run(
            [*PROGRAM, *arguments],
            env=environment(database),
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        os.close(write)
        assert (result.returncode, result.stderr) == (1, ""), arguments
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [*PROGRAM, "health"], env=environment(database), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (result.returncode, result.stderr) == (1, "error: [Errno 28] No space left on device\n")


async def test_ctrl_c_ends_with_one_line(database: Settings) -> None:
    """In the middle of a statement: exit code 130, at once, and the statement is cancelled in the server, too."""
    async with db.get_db_connection() as conn, conn.transaction():
        await conn.execute("LOCK TABLE document IN ACCESS EXCLUSIVE MODE")
        process = start("search", "x", settings=database)
        deadline = time.monotonic() + 30
        waiting = (
            "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database AND datname = current_database() "
        )
        while not await conn.fetchval(waiting + "WHERE NOT granted"):
            assert time.monotonic() < deadline and process.poll() is None
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.to_thread(process.communicate, timeout=20)
        assert process.returncode == 130
        assert err.decode() == "error: interrupted\n"
        while await conn.fetchval(waiting + "WHERE NOT granted"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


# --- terminals


async def test_a_terminal_gets_colours_a_bar_and_lines_that_fit(database: Settings, notes: Path) -> None:
    """Highlights are coloured; the bar is drawn and taken away; nothing is wider than the terminal."""
    assert "\x1b[?25l" in (ingested := run_in_terminal("ingest", notes, settings=database)).out
    assert ingested.out.rstrip().endswith("\x1b[0m")
    found = run_in_terminal("search", "pool", settings=database)
    assert "\x1b[1;33mpool\x1b[0m" in found.out
    plain = run_in_terminal("search", "pool", settings=database, variables={"NO_COLOR": "1"})
    assert "\x1b[1mpool\x1b[0m" in plain.out and "\x1b[1;33m" not in plain.out and "\x1b[3" not in plain.out
    assert all(len(line) <= 80 for line in re.sub(r"\x1b\[[0-9;]*m", "", plain.out).splitlines())


async def test_a_dumb_terminal_and_a_pipe_get_no_escapes(database: Settings, notes: Path) -> None:
    """Neither colours nor a bar, also where FORCE_COLOR asks for colours: no cursor is moved in a file."""
    dumb = run_in_terminal("ingest", notes, settings=database, variables={"TERM": "dumb"})
    assert "\x1b" not in dumb.out and "2 inserted" in dumb.out
    assert "*retry*" in run_in_terminal("search", "retry", settings=database, variables={"TERM": "dumb"}).out
    piped = run("ingest", notes, settings=database)
    assert "\x1b" not in piped.out + piped.err
    forced = run("ingest", notes, settings=database, variables={"FORCE_COLOR": "1"})
    assert "\x1b[?25l" not in forced.err + forced.out and "\x1b[2K" not in forced.err


async def test_any_character_can_be_printed_anywhere(database: Settings) -> None:
    """Where the locale has only ASCII, nothing fails; control characters never reach a terminal; no text is markup."""
    await db.insert_document("Grüße [red]x[/red] :smile:", "pfad/ü", "Übung \x1b]0;gone\x07 macht \u202eden Meister")
    poor = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    result = run("search", "Meister", settings=database, variables=poor)
    assert result.code == 0 and result.out.isascii() and "[red]x[/red] :smile:" in result.out, result
    assert run("search", "Meister", "--json", settings=database, variables=poor).json[0]["code"] == "pfad/ü"
    shown = run_in_terminal("search", "Meister", settings=database, variables={"TERM": "dumb"}).out
    assert "Grüße [red]x[/red] :smile:" in shown
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)
