"""`check`: what it finds, and what it says about it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import database as db
from database.cli import checks
from database.settings import Settings

from .program import Result, environment, run


def states(result: Result) -> dict[str, str]:
    return {check["name"]: check["state"] for check in result.json["checks"]}


async def test_all_is_well(database: Settings) -> None:
    """Exit code 0, a line a check, and where the server is named without its password."""
    result = run("check", "--json", settings=database)
    assert result.code == 0 and result.json["ok"], result
    assert set(states(result).values()) <= {"ok", "note"}
    assert set(states(result)) >= {"python", "extras", "module", "settings", "server", "transport", "version",
                                   "writable", "tables", "extensions"}  # fmt: skip
    assert "DATABASE_URL (environment)" in run("check", settings=database).out


async def test_missing_tables_are_worth_a_note(empty_database: Settings) -> None:
    """They can be made: the hint says how, the exit code is 0."""
    result = run("check", settings=empty_database)
    assert result.code == 0
    assert "note  tables" in result.out and "-> python -m database init" in result.out


async def test_what_fails_has_a_hint(database: Settings) -> None:
    """A read-only server, tables of another version: exit code 1, and each other check is still made."""
    async with db.get_db_connection() as conn:
        await conn.execute("UPDATE database_migration SET checksum = 'other' WHERE version = '0001'")
        name = await conn.fetchval("SELECT quote_ident(current_database())")
        await conn.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    result = run("check", "--json", settings=database)
    assert result.code == 1 and not result.json["ok"]
    failed = {check["name"]: check for check in result.json["checks"] if check["state"] == "fail"}
    assert set(failed) == {"tables", "writable"}
    assert all(check["hint"] for check in failed.values())
    assert "document" in failed["tables"]["text"] and "chat_history" not in failed["tables"]["text"]
    assert states(result)["extensions"] == "ok"


def test_a_server_that_is_away_is_one_failure(tmp_path: Path) -> None:
    """Named with its address, without its password; a name in .env is told apart from one in the environment."""
    (tmp_path / ".env").write_text("POSTGRES_PASSWORD=geheim\nDB_CONNECTION_TIMEOUT=0.2\n")
    result = run("check", "--json", variables={"POSTGRES_HOST": "localhost", "POSTGRES_PORT": "1"})
    assert result.code == 1
    assert [check["name"] for check in result.json["checks"] if check["state"] == "fail"] == ["server"]
    (settings,) = (check for check in result.json["checks"] if check["name"] == "settings")
    for source in ("POSTGRES_HOST (environment)", "POSTGRES_PORT (environment)", "POSTGRES_PASSWORD (.env)"):
        assert source in settings["text"]
    assert "geheim" not in result.out + result.err


def test_wrong_settings_are_a_failure_with_a_name() -> None:
    """The variable is named; nothing is connected to."""
    for name, value in (("DATABASE_URL", "mysql://u:geheim@h/x"), ("DB_EMBEDDED", "never")):
        result = run("check", variables={name: value})
        assert result.code == 1
        assert "fail  settings" in result.out and name in result.out and "geheim" not in result.out


@pytest.mark.parametrize("name", ["database.py", "database/__init__.py"])
async def test_a_module_in_the_way_is_found(name: str, database: Settings, tmp_path: Path) -> None:
    """A database.py or database/ in the working directory is what `python program.py` would import there."""
    program = tmp_path / "bin" / "pgdatabase.py"  # as pip installs it: its own directory comes first, not this one
    program.parent.mkdir()
    program.write_text("from database.cli import main; main()")
    shadow = tmp_path / "work" / name
    shadow.parent.mkdir(parents=True)
    shadow.write_text("")
    finished = subprocess.run(
        [sys.executable, program, "check"],
        cwd=tmp_path / "work", env=environment(database), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert finished.returncode == 1
    line = next(line for line in finished.stdout.splitlines() if line.startswith("fail  module"))
    assert str(tmp_path / "work" / "database") in line


def test_a_directory_that_is_no_package_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`database/` without `__init__.py` yields to an installed package."""
    (tmp_path / "database").mkdir()
    monkeypatch.chdir(tmp_path)
    assert checks.check_module().state == "ok"


FACTS: dict[str, Any] = {
    "version": "18.1", "major": 18, "role": "me", "database": "d", "standby": False, "read_only": False, "tls": False,
    "cipher": None, "client": None, "schema": "public", "may_create": True, "applied": {}, "extensions": [],
}  # fmt: skip


def test_the_version_decides() -> None:
    """15 to 18 are right, older ones fail, newer ones are worth a note."""
    found = {major: checks.check_version(FACTS | {"major": major}).state for major in (14, 15, 18, 19)}
    assert found == {14: "fail", 15: "ok", 18: "ok", 19: "note"}


def test_only_a_network_needs_encryption() -> None:
    """A unix socket and the loopback interface are fine without it."""
    for facts, state in (
        ({}, "ok"),
        ({"client": "127.0.0.1"}, "ok"),
        ({"client": "::1"}, "ok"),
        ({"client": "10.0.0.5"}, "note"),
        ({"client": "10.0.0.5", "tls": True, "cipher": "TLSv1.3, X"}, "ok"),
    ):
        assert checks.check_encryption(FACTS | facts).state == state, facts


def test_who_may_not_create_tables_learns_whom_to_ask() -> None:
    """Missing tables that cannot be made are a failure; a standby is one for whoever writes."""
    check = checks.check_tables(FACTS | {"may_create": False})
    assert check.state == "fail" and check.hint == "let its owner: GRANT CREATE ON SCHEMA public TO me"
    assert checks.check_writable(FACTS | {"standby": True}).state == "fail"


async def test_a_role_without_rights_is_seen(empty_database: Settings) -> None:
    """As PostgreSQL itself tells it, with a role of its own."""
    role = f"poor_{os.urandom(6).hex()}"
    admin = await asyncpg.connect(empty_database.dsn)
    try:
        await admin.execute(f"CREATE ROLE {role}")
        await admin.execute(f"GRANT {role} TO CURRENT_USER")
        await admin.execute(f"SET ROLE {role}")
        facts = dict(await admin.fetchrow(checks._FACTS) or {}) | {"applied": {}}
        assert checks.check_tables(facts).state == "fail"
    finally:
        await admin.execute("RESET ROLE")
        await admin.execute(f"DROP ROLE {role}")
        await admin.close()
