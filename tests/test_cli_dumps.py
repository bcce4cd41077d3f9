"""The commands about dumps, the server's statistics, and examples, as a shell runs them."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

import database as db
from database.cli.examples import command_of, find_examples, read_purpose
from database.settings import Settings, configure

from .conftest import database_url
from .program import PROGRAM, environment, run, run_in_terminal, start
from .sshd import sshd
from .test_backup import databases, execute, files, name_of_database, until


async def test_dump_and_restore(database: Settings) -> None:
    """There and back; the list shows what there is; what would harm is refused with one line."""
    await db.insert_document("Tea", "tea", "x")
    name = await name_of_database()
    made = run("dump", settings=database)
    assert made.code == 0 and made.err == "", made
    path = made.out.split()[0]
    assert Path(path).is_file() and path.startswith("dumps/")
    assert run("dump", "--list", settings=database).out.split()[0] == path
    assert [each["path"] for each in run("dump", "--list", "--json", settings=database).json] == [path]
    assert run("dump", "own.dump", "--json", settings=database).json["path"] == "own.dump"

    await db.delete_document("tea")
    refused = run("restore", path, "--confirm", name, settings=database)
    assert (refused.code, refused.out) == (1, "") and refused.err.count("\n") == 1 and "--clean" in refused.err
    done = run("restore", "--latest", "--confirm", name, "--clean", "--json", settings=database)
    assert done.code == 0 and done.json["replaced"] is True and done.json["path"] == path, done
    assert await db.get_document_by_code("tea")
    wrong = run("restore", path, "--confirm", "production", "--clean", settings=database)
    assert wrong.code == 1 and "confirm says 'production'" in wrong.err


async def test_wrong_use_is_exit_code_2(database: Settings) -> None:
    """A dump and --latest, neither, nobody to ask, no dumps."""
    for arguments, reason in (
        (["restore"], "name a dump, or say --latest"),
        (["restore", "x.dump", "--latest"], "name a dump, or say --latest"),
        (["restore", "--latest"], "there are no dumps in dumps"),
        (["restore", "x.dump"], "say --confirm DATABASE"),
        (["dump", "-", "--json"], "cannot both go to stdout"),
        (["sync", "a@b", "--confirm", "x", "--ssh", "'"], "--ssh: No closing quotation"),
        (["examples", "run", "nothing"], "there is no example 'nothing'"),
    ):
        result = run(*arguments, settings=database)
        assert result.code == 2 and reason in " ".join(result.err.replace("│", " ").split()), result


async def test_restore_asks_for_the_name(database: Settings) -> None:
    """On a terminal, saying where the settings lead to; another name than the right one harms nothing."""
    await db.insert_document("Tea", "tea", "x")
    name = await name_of_database()
    dump = (await db.dump_database())["path"]
    await db.delete_document("tea")

    def answer(text: str) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [*PROGRAM, "restore", dump, "--clean"],
            env=environment(database), stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            os.close(theirs)
            os.write(ours, text.encode())
            out = process.communicate(timeout=60)[0].decode()
        os.close(ours)
        return process.returncode, out

    code, said = await asyncio.to_thread(answer, "something else\n")
    assert code == 1 and f"restore {dump}, into postgresql://" in said and "confirm says 'something else'" in said
    code, said = await asyncio.to_thread(answer, f"{name}\n")
    assert code == 0 and "replaced by" in said, said
    assert await db.get_document_by_code("tea")


async def test_a_dump_to_stdout_is_whole_or_nothing(database: Settings, tmp_path: Path) -> None:
    """The archive alone on stdout, its checksum on stderr; where it fails, stdout stays empty."""
    done = await asyncio.to_thread(
        subprocess.run, [*PROGRAM, "dump", "-"], env=environment(database), capture_output=True, check=False
    )
    assert done.returncode == 0 and done.stdout.startswith(b"PGDMP")
    (tmp_path / "x.dump").write_bytes(done.stdout)
    (tmp_path / "x.dump.sha256").write_text(done.stderr.decode().removeprefix("sha256 "))
    await db.restore_database(tmp_path / "x.dump", confirm=await name_of_database(), clean=True)
    nobody = run("dump", "-", variables={"DATABASE_URL": "postgresql://a:geheim@127.0.0.1:1/x"})
    assert (nobody.code, nobody.out) == (1, "") and "geheim" not in nobody.err


async def dump_until(number: signal.Signals, settings: Settings, **variables: str) -> tuple[int, str]:
    """The exit code of a dump that gets a signal in the middle, and what it says; pg_dump has ended, too."""
    async with db.get_db_transaction() as conn:
        await conn.execute("LOCK TABLE document IN ACCESS EXCLUSIVE MODE")
        process = start("dump", settings=settings, variables=variables)
        waiting = (
            "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database WHERE NOT granted AND datname = $1"
        )
        async with db.get_db_connection() as other:
            name = await name_of_database()
            await until(lambda: other.fetchval(waiting, name))
        process.send_signal(number)
        _, err = await asyncio.to_thread(process.communicate, timeout=20)
    return process.returncode, err.decode()


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 143, "terminated")],
)
async def test_ctrl_c_and_the_like_leave_nothing(
    database: Settings, number: signal.Signals, code: int, word: str
) -> None:
    """In the middle of a dump: an exit code, one line, no file."""
    assert await dump_until(number, database) == (code, f"error: {word}\n")
    assert files() == [] and await databases() == set()


async def test_a_kill_leaves_no_password(database: Settings, tmp_path: Path) -> None:
    """The file that it was in has no name."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    secret = database.model_copy(update={"database_url": database.dsn.replace("postgres@", "postgres:geheim@", 1)})
    assert ":geheim@" in secret.dsn
    code, _ = await dump_until(signal.SIGKILL, secret, TMPDIR=str(temporary))
    assert code == -signal.SIGKILL
    assert list(temporary.rglob("*")) == []


async def test_a_terminal_gets_a_bar(database: Settings) -> None:
    """Drawn and taken away again."""
    shown = run_in_terminal("dump", settings=database).out
    assert "\x1b[?25l" in shown and "dumps/" in shown


async def test_the_test_database_is_refreshed(database: Settings, server_url: str) -> None:
    """It becomes a copy of the other one; never that one itself."""
    await db.insert_document("Tea", "tea", "x")
    name = f"test_{uuid.uuid4().hex}"
    url = database_url(server_url, name).get_secret_value()
    try:
        for _ in range(2):
            done = run(
                "workflow", "refresh-test", "--confirm", name, settings=database, variables={"TEST_DATABASE_URL": url}
            )
            assert done.code == 0, done
        configure(Settings(database_url=url, min_connections=0), "copy")
        assert await db.execute_with_retry("SELECT code FROM document", name="copy") == [{"code": "tea"}]
        own = await name_of_database()
        same = run(
            "workflow",
            "refresh-test",
            "--confirm",
            own,
            settings=database,
            variables={"TEST_DATABASE_URL": database.dsn},
        )
        assert same.code == 1 and "are the same database" in same.err
        assert run("workflow", "refresh-test", "--to", "default", "--confirm", own, settings=database).code == 1
    finally:
        await db.close_connection_pool("copy")
        configure(None, "copy")
        await execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def test_dump_and_commit(database: Settings, tmp_path: Path) -> None:
    """A dump, and a commit that holds it."""
    for command in ("init -q", "config user.name Ada", "config user.email ada@example.com"):
        subprocess.run(["git", *command.split()], check=True)
    done = run("workflow", "dump-and-commit", "--message", "Roses", "--json", settings=database)
    assert done.code == 0, done
    shown = subprocess.run(["git", "show", "--name-only", "--format=%H %s"], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[0] == f"{done.json['commit']} Roses" and done.json["path"] in shown.stdout


async def test_sync_over_ssh(database: Settings, server_url: str, tmp_path: Path) -> None:
    """As a user does it, but for the name of the program there."""
    await db.insert_document("Tea", "tea", "x")
    here = f"test_{uuid.uuid4().hex}"
    with sshd(tmp_path / "ssh") as there:
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / ".env").write_text(f"DATABASE_URL={database.dsn}\n")
        url = database_url(server_url, here).get_secret_value()
        done = run(
            "sync", there.remote, "--remote-dir", tmp_path / "there", "--ssh", " ".join(there.options),
            "--remote-command", f"{sys.executable} -m database dump -", "--confirm", here, "--json",
            variables={"DATABASE_URL": url},
        )  # fmt: skip
    try:
        assert done.code == 0 and done.json["database"] == here, done
    finally:
        await execute(f'DROP DATABASE IF EXISTS "{here}" WITH (FORCE)')


async def test_stats_tell_what_the_server_counts(database: Settings) -> None:
    """Numbers for people, all of it for programs; without pg_stat_statements there are no statements, and no error."""
    await db.insert_document("Tea", "tea", "x")
    shown = run("stats", settings=database)
    assert shown.code == 0 and "connections" in shown.out and "document" in shown.out
    about = run("stats", "--limit", "3", "--json", settings=database).json
    assert about["database"] == await name_of_database() and about["bytes"] > 1_000_000
    assert len(about["tables"]) == 3 and about["tables"][0]["bytes"] >= about["tables"][1]["bytes"]
    assert about["statements"] is None or all("statement" in each for each in about["statements"])


def test_examples_are_listed_with_what_they_show() -> None:
    """All that there are, each with a purpose and a command that runs it."""
    listed = run("examples", "list", "--json").json
    assert {each["name"] for each in listed} == {path.stem for path in find_examples().values()} >= {"quickstart"}
    for path in find_examples().values():
        assert read_purpose(path), path
        assert command_of(path)[0] == sys.executable and len(command_of(path)) > 1


async def test_an_example_runs_with_the_configured_database(empty_database: Settings) -> None:
    """It prints what it prints; with --json that goes to stderr."""
    done = run("examples", "run", "quickstart", settings=empty_database)
    assert done.code == 0 and done.out.endswith("ai: A coroutine.\n"), done
    assert await db.get_document_by_code("notes/async")
    as_json = run("examples", "run", "quickstart.py", "--json", settings=empty_database)
    assert as_json.json == {"name": "quickstart", "exit_code": 0} and "ai: A coroutine." in as_json.err
    failed = run("examples", "run", "quickstart", variables={"DATABASE_URL": "postgresql://a@127.0.0.1:1/x",
                                                              "DB_CONNECTION_TIMEOUT": "0.1"})  # fmt: skip
    assert failed.code == 1


def test_applications_are_run_by_their_own_programs() -> None:
    """`uvicorn fastapi_app:app` is what the first line of the example says."""
    assert command_of(find_examples()["fastapi_app"])[1:] == ["-m", "uvicorn", "fastapi_app:app"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(shell: str) -> None:
    """What a shell asks gets the commands that begin so."""
    variables = {
        "_PGDATABASE_COMPLETE": f"complete_{shell}", "COMP_WORDS": "pgdatabase res", "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "pgdatabase res", "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }  # fmt: skip
    program = Path(sys.executable).parent / "pgdatabase"
    done = subprocess.run(
        [program], env=environment() | variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert "restore" in done.stdout, done
