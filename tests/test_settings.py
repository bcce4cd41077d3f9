"""Settings: where they come from, what beats what, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

import database as db
from database import Settings
from database.settings import configure, get_settings, redact


def test_without_any_name_no_server_is_meant() -> None:
    """Then the embedded server is used; every other setting has its documented default."""
    settings = get_settings()
    assert not settings.names_a_server
    assert (settings.min_connections, settings.max_connections) == (5, 20)
    assert (settings.connection_timeout, settings.command_timeout) == (30, 60)


@pytest.mark.parametrize(
    "variable",
    ["DATABASE_URL", "POSTGRES_HOST", "POSTGRES_PORT", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DATABASE",
     "POSTGRES_DB", "PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"],
)  # fmt: skip
def test_any_name_of_a_server_turns_the_embedded_one_off(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """DATABASE_URL, POSTGRES_* and libpq's PG* alike."""
    monkeypatch.setenv(variable, "5433" if variable.endswith("PORT") else "postgresql://h/d")
    assert get_settings().names_a_server


def test_variables_of_others_mean_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """USER, HOST and the like, which every shell sets, are not taken for settings of the same name."""
    for name in Settings.model_fields:
        if name != "database_url":
            monkeypatch.setenv(name.upper(), "1")
            Path(".env").write_text(f"{name}=1\n")
    assert not get_settings().names_a_server
    assert get_settings() == Settings(_env_file=None)  # type: ignore[call-arg]  # one of pydantic-settings' own


def test_arguments_beat_environment_beats_env_file_beats_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each source is read, in this order; an empty variable is as good as none; unknown ones are ignored."""
    Path(".env").write_text("DB_MAX_CONNECTIONS=11\nDB_COMMAND_TIMEOUT=12\nPOSTGRES_HOST=\nSOMETHING_ELSE=1\n")
    monkeypatch.setenv("DB_MAX_CONNECTIONS", "13")
    monkeypatch.setenv("DB_MAX_WAITING", "")
    settings = Settings(min_connections=7)
    assert settings.min_connections == 7
    assert settings.max_connections == 13
    assert settings.command_timeout == 12
    assert settings.max_waiting == 0
    assert settings.host is None


@pytest.mark.parametrize(
    ("environment", "dsn"),
    [
        ({"DATABASE_URL": "postgresql+asyncpg://u:p@h:1/d"}, "postgresql://u:p@h:1/d?sslmode=verify-full"),
        ({"DATABASE_URL": "postgres://u@localhost/d"}, "postgresql://u@localhost/d?sslmode=prefer"),
        ({"DATABASE_URL": "postgresql://u:p@h/d?sslmode=disable"}, "postgresql://u:p@h/d?sslmode=disable"),
        ({"DATABASE_URL": "postgresql://u:a@b%2F:c@h/d"}, "postgresql://u:a%40b%2F%3Ac@h/d?sslmode=verify-full"),
        ({"DATABASE_URL": "postgresql://h/d", "POSTGRES_USER": "u", "PGPASSWORD": "p"},
         "postgresql://u:p@h/d?sslmode=verify-full"),
        ({"DATABASE_URL": "postgresql:///d?host=/tmp/a%20b"}, "postgresql:///d?host=%2Ftmp%2Fa%20b&sslmode=prefer"),
        ({"DATABASE_URL": "postgresql://u@h1:1,h2:2/d?target_session_attrs=read-write"},
         "postgresql://u@h1:1,h2:2/d?target_session_attrs=read-write&sslmode=verify-full"),
        ({"DATABASE_URL": "postgresql://u@[::1]:5/d"}, "postgresql://u@[::1]:5/d?sslmode=prefer"),
        ({"POSTGRES_HOST": "db.example.com", "POSTGRES_PORT": "6", "POSTGRES_DB": "d", "POSTGRES_SSLMODE": "require"},
         "postgresql:///d?host=db.example.com&port=6&sslmode=require"),
        ({"POSTGRES_HOST": "mine", "PGHOST": "libpqs"}, "postgresql:///?host=mine&sslmode=verify-full"),
        ({"PGHOST": "/run/postgresql", "PGDATABASE": "d"}, "postgresql:///d?host=%2Frun%2Fpostgresql&sslmode=prefer"),
        ({"POSTGRES_HOST": "h", "POSTGRES_SSLROOTCERT": "system"}, "postgresql:///?host=h&sslmode=verify-full"),
        ({"POSTGRES_DATABASE": "d"}, "postgresql:///d?host=localhost&sslmode=prefer"),
        # the driver goes to the host before the path, so that one decides
        ({"DATABASE_URL": "postgresql://db.example.com/d?host=localhost"},
         "postgresql://db.example.com/d?host=localhost&sslmode=verify-full"),
        ({"DATABASE_URL": "postgresql://localhost/d?host=db.example.com"},
         "postgresql://localhost/d?host=db.example.com&sslmode=prefer"),
        ({"PGHOST": "127.0.0.1,db.example.com"}, "postgresql:///?host=127.0.0.1%2Cdb.example.com&sslmode=verify-full"),
    ],
)  # fmt: skip
def test_the_address_is_put_together(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], dsn: str) -> None:
    """From a URL, from pieces, from both; another machine must prove who it is unless told otherwise."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert get_settings().dsn == dsn


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"DB_MIN_CONNECTIONS": "30"}, r"DB_MIN_CONNECTIONS \(30\) is more than DB_MAX_CONNECTIONS \(20\)"),
        ({"DB_MIN_CONNECTIONS": "-1"}, "DB_MIN_CONNECTIONS: .*greater than or equal to 0"),
        ({"DB_MAX_CONNECTIONS": "0"}, "DB_MAX_CONNECTIONS: .*greater than or equal to 1"),
        ({"DB_MAX_WAITING": "-1"}, "DB_MAX_WAITING: "),
        ({"DB_CONNECTION_TIMEOUT": "-3"}, "DB_CONNECTION_TIMEOUT: .*greater than 0"),
        ({"DB_COMMAND_TIMEOUT": "0"}, "DB_COMMAND_TIMEOUT: .*greater than 0"),
        ({"DB_COMMAND_TIMEOUT": "inf"}, "DB_COMMAND_TIMEOUT: .*finite"),
        ({"DB_STATEMENT_TIMEOUT": "soon"}, "DB_STATEMENT_TIMEOUT: .*number"),
        ({"DB_MAX_LIFETIME": "-1"}, "DB_MAX_LIFETIME: "),
        ({"DB_MAX_IDLE": "-1"}, "DB_MAX_IDLE: "),
        ({"DB_POOLER": "session"}, "DB_POOLER: .*'none' or 'transaction'"),
        ({"DB_EMBEDDED": "perhaps"}, "DB_EMBEDDED: .*'auto' or 'never'"),
        ({"POSTGRES_PORT": "70000"}, "POSTGRES_PORT or PGPORT: .*less than or equal to 65535"),
        ({"PGPORT": "x"}, "POSTGRES_PORT or PGPORT: .*integer"),
        ({"POSTGRES_SSLMODE": "maybe"}, "POSTGRES_SSLMODE or PGSSLMODE: .*'verify-full'"),
        ({"PGSSLROOTCERT": "/no/such.pem"}, "POSTGRES_SSLROOTCERT or PGSSLROOTCERT: there is no such file"),
        ({"DATABASE_URL": "localhost"}, "DATABASE_URL: it is not a URL; write postgresql://"),
        ({"DATABASE_URL": "mysql://u:hush@h/d"}, "DATABASE_URL: it must begin with postgresql://"),
        ({"DATABASE_URL": "postgresql://u:hush@h:x/d"}, "DATABASE_URL: it cannot be read"),
        ({"DATABASE_URL": "postgresql://u:hush@h:99999/d"}, "DATABASE_URL: it cannot be read"),
        ({"DATABASE_URL": "postgresql://u:12#hush@h/d"}, "DATABASE_URL: it cannot be read"),
        ({"DATABASE_URL": "postgresql://u:12/hush@h/d"}, "DATABASE_URL: it cannot be read"),
        ({"DATABASE_URL": "postgresql://u:hush@h/d?sslmode=some"}, "DATABASE_URL: unknown sslmode; it must be one of"),
        ({"DB_MAX_CONNECTIONS": "x", "PGPORT": "y"}, "POSTGRES_PORT or PGPORT: .*; DB_MAX_CONNECTIONS: "),
    ],
)  # fmt: skip
async def test_a_wrong_value_is_refused_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    """The error names each wrong variable, says what would be right, and shows no value that may be secret."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(db.ConnectionPoolError, match="^wrong settings: " + message) as caught:
        await db.get_connection_pool()
    assert "hush" not in str(caught.value)
    assert "hush" not in str(caught.value.__cause__)
    assert await db.health_check() is False


def test_a_wrong_value_in_code_is_pydantics_error() -> None:
    """`Settings(…)` raises `ValidationError`, a `ValueError`, that names the variable, without its value."""
    with pytest.raises(ValidationError, match="DATABASE_URL") as caught:
        Settings(database_url=SecretStr("mysql://u:hush@h/d"))
    assert "hush" not in str(caught.value)


async def test_an_unreadable_env_file_is_said() -> None:
    """A `.env` that is not UTF-8 keeps the pool from opening, with an error of ours."""
    Path(".env").write_bytes(b"POSTGRES_USER=\xff\n")
    with pytest.raises(db.ConnectionPoolError, match=r"cannot read the file .env: UnicodeDecodeError"):
        await db.get_connection_pool()


def test_an_argument_that_does_not_exist_is_refused() -> None:
    """A misspelt setting in code is a mistake, while unknown variables of the environment are somebody else's."""
    with pytest.raises(TypeError, match=r"Settings has no 'max_conections'; it has .*max_connections"):
        Settings(max_conections=1)  # type: ignore[call-arg]  # the point of the test


def test_a_small_limit_lowers_the_default_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """DB_MAX_CONNECTIONS=2 alone is a valid setting."""
    monkeypatch.setenv("DB_MAX_CONNECTIONS", "2")
    assert get_settings().min_connections == 2


def test_secrets_do_not_show() -> None:
    """Neither repr nor the reported URL has the password, wherever it stands in the URL."""
    for url in ("postgresql://u:hush@h/d", "postgresql://u@h/d?password=hush", "postgresql://u:%68ush@h/d"):
        settings = Settings(database_url=SecretStr(url))
        assert "hush" not in repr(settings)
        assert "hush" not in settings.redacted_url
        assert "hush" in settings.dsn
    assert (
        redact("postgresql://u:hush@h:1/d?sslmode=require&sslpassword=hush") == "postgresql://u@h:1/d?sslmode=require"
    )


def test_settings_are_frozen() -> None:
    """An open pool and its settings cannot come apart."""
    with pytest.raises(ValidationError):
        Settings().max_connections = 3


def test_configure_sets_them_in_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was configured is used; None goes back to the environment; names are independent."""
    mine = Settings(application_name="mine")
    configure(mine)
    assert get_settings() is mine
    configure(None)
    assert get_settings().application_name == "database.py"
    monkeypatch.setenv("READ_REPLICA_DATABASE_URL", "postgresql://replica@localhost/r")
    assert get_settings("read-replica").dsn == "postgresql://replica@localhost/r?sslmode=prefer"
    monkeypatch.setenv("REPORTING_DATABASE_URL", "postgresql://reporting@localhost/r")
    monkeypatch.setenv("DB_MAX_CONNECTIONS", "3")
    settings = get_settings("reporting")
    assert settings.dsn == "postgresql://reporting@localhost/r?sslmode=prefer"
    assert settings.max_connections == 3
    monkeypatch.setenv("REPORTING_DATABASE_URL", "mysql://u:hush@h/d")
    with pytest.raises(db.ConnectionPoolError, match="REPORTING_DATABASE_URL: it must begin with postgresql://"):
        get_settings("reporting")


def test_the_example_file_lists_every_name_with_its_default() -> None:
    """.env.example and the code agree: every variable is there, and its value is the default."""
    text = (Path(__file__).parent.parent / ".env.example").read_text()
    written: dict[str, Any] = dict(re.findall(r"^#([A-Z_]+)=(.*)$", text, re.MULTILINE))
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        names = [str(choice) for choice in getattr(alias, "choices", [alias])]
        assert names[0] in written, name
        assert all(re.search(rf"\b{other}\b", text) for other in names), names
        if written[names[0]] and names[0] not in ("DATABASE_URL", "POSTGRES_HOST", "POSTGRES_PORT"):
            assert written[names[0]] == str(field.default)
    assert set(written) == {
        str(getattr(field.validation_alias, "choices", [field.validation_alias])[0])
        for field in Settings.model_fields.values()
    }
