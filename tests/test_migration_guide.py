"""MIGRATION_GUIDE.md: its code runs, its SQL moves real tables, and the names that it sends people to exist."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

import database as db
from database import testing
from database.contrib import celery, fastapi
from database.settings import Settings
from tests.running import client_of, run_block, run_program

GUIDE = (Path(__file__).parent.parent / "MIGRATION_GUIDE.md").read_text(encoding="utf-8")
MOVING = "Moving the tables"


class Block(NamedTuple):
    heading: str
    language: str
    code: str


def read_blocks() -> list[Block]:
    blocks = []
    for section in re.split(r"^## ", GUIDE, flags=re.MULTILINE)[1:]:
        heading = section.partition("\n")[0]
        for language, code in re.findall(r"^```(\w*)\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL):
            blocks.append(Block(heading, language, code))
    return blocks


BLOCKS = read_blocks()
PYTHON = [block for block in BLOCKS if block.language == "python" and block.heading != MOVING]


def test_no_block_is_passed_over() -> None:
    """Every fenced block is one that a test here runs."""
    assert {block.language for block in BLOCKS} == {"python", "sql"}
    assert {block.heading for block in BLOCKS if block.language == "sql"} == {MOVING}
    assert GUIDE.count("```") == 2 * len(BLOCKS)


@pytest.mark.parametrize("block", PYTHON, ids=[f"{block.heading}-{n}" for n, block in enumerate(PYTHON)])
async def test_python(block: Block, database: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each block of Python runs by itself: as a program where it makes its own event loop, else in that of the test."""
    if "asyncio.R" in block.code or "asyncio.run" in block.code:
        assert run_program(block.code, tmp_path, DATABASE_URL=database.dsn).stdout.strip()
    else:
        await run_block(block.code)
        if block.heading == "What behaves differently":
            assert capsys.readouterr().out == "23505\n"


async def test_fastapi(database: Settings) -> None:
    """The application that takes the place of core.db's stores and lists, in the table that the guide creates."""
    table, application = [block.code for block in BLOCKS if block[:2] == ("From core.db", "python")]
    await run_block(table)
    async with client_of((await run_block(application))["app"]) as client:
        user = {"name": "Jane", "email": "jane@example.com"}
        user_id = (await client.post("/users", params=user)).json()
        assert (await client.get("/users")).json() == [{"id": user_id, **user}]


# What the sync version's tables may have looked like: ids counted by a sequence, or UUIDs.
_OLD_TABLES = """
    CREATE TABLE document (
        id {type} PRIMARY KEY DEFAULT {default},
        name varchar(255) NOT NULL,
        code varchar(100) UNIQUE NOT NULL,
        content text,
        created_at timestamptz DEFAULT now(),
        updated_at timestamptz DEFAULT now()
    );
    CREATE INDEX document_search_index ON document USING gin (to_tsvector('english', content));
    CREATE TABLE chat_history (
        id {type} PRIMARY KEY DEFAULT {default},
        user_id integer NOT NULL,
        thread_id varchar(255) NOT NULL,
        question text NOT NULL,
        answer text NOT NULL,
        created_at timestamptz DEFAULT now()
    );
    CREATE INDEX chat_history_thread_index ON chat_history (thread_id);
"""


@pytest.mark.parametrize(
    ("type_", "default"), [("bigint", "nextval('ids')"), ("uuid", "gen_random_uuid()")], ids=["counted", "uuid"]
)
async def test_moving_the_tables(empty_database: Settings, type_: str, default: str) -> None:
    """Every row of the old tables is in the new ones, in the order of time, and can be found."""
    moment = datetime(2024, 2, 29, 12, tzinfo=UTC)
    # twelve within each second, seven of which share their millisecond
    times = [moment + timedelta(seconds=n // 12, milliseconds=max(0, n % 12 - 6)) for n in range(60)]
    async with db.get_db_connection() as conn:
        await conn.execute("CREATE SEQUENCE ids;" + _OLD_TABLES.format(type=type_, default=default))
        await conn.executemany(
            "INSERT INTO document (name, code, content, created_at, updated_at) VALUES ($1, $1, $2, $3, $3)",
            [(f"doc{n:02}", f"content number {n}", time) for n, time in enumerate(times)],
        )
        await conn.executemany(
            "INSERT INTO chat_history (user_id, thread_id, question, answer, created_at) VALUES (1, 't', $1, $1, $2)",
            [(f"turn{n:02}", time) for n, time in enumerate(times)],
        )
        old = await conn.fetch("SELECT id::text AS id, code FROM document ORDER BY created_at, document.id")
        old_turns = await conn.fetch("SELECT question FROM chat_history ORDER BY created_at, id")
    with pytest.raises(db.SchemaError, match=r"MIGRATION_GUIDE\.md"):
        await db.init_document_table()

    await _move_the_tables()
    documents = await db.get_list_of_documents()
    assert [document["code"] for document in reversed(documents)] == [row["code"] for row in old]
    assert [str(document["metadata"]["old_id"]) for document in reversed(documents)] == [row["id"] for row in old]
    assert [document["created_at"] for document in reversed(documents)] == times
    assert {document["id"][14] for document in documents} == {"7"}
    assert [found["code"] for found in await db.search_documents("59")] == ["doc59"]
    turns = await db.get_recent_chat_history("t", limit=100)
    assert [turn["question"] for turn in reversed(turns)] == [row["question"] for row in old_turns]

    new = await db.insert_document("new", "new", "new")
    assert (await db.get_list_of_documents(limit=1))[0]["id"] == new["id"]
    assert await db.save_chat_history(1, "t", "new", "new") == (await db.get_recent_chat_history("t"))[0]["id"]


async def _move_the_tables() -> None:
    """What the guide says, step by step."""
    *steps, check, clean_up = [block for block in BLOCKS if block.heading == MOVING]
    for step in steps:
        if step.language == "sql":
            await _execute(step.code)
        else:
            await run_block(step.code)
    assert await db.execute_with_retry(check.code) == [{"missing_documents": 0, "missing_messages": 0}]
    await _execute(clean_up.code)


async def test_moving_an_import_of_many_documents(empty_database: Settings) -> None:
    """Ten thousand documents of one moment keep their order, and one without a text has an empty one."""
    await _execute("CREATE SEQUENCE ids;" + _OLD_TABLES.format(type="bigint", default="nextval('ids')"))
    await _execute("""
        INSERT INTO document (name, code, content, created_at)
        SELECT n, lpad(n::text, 5, '0'), nullif('text', CASE WHEN n = 7 THEN 'text' END), '2024-02-29 12:00:00+00'
          FROM generate_series(1, 10000) AS n
    """)
    await _move_the_tables()
    documents = await db.get_list_of_documents(limit=10_000)
    assert [document["code"] for document in reversed(documents)] == [f"{n:05}" for n in range(1, 10_001)]
    assert documents[-7]["content"] == ""


async def _execute(script: str) -> None:
    async with db.get_db_connection() as conn:
        await conn.execute(script)


def test_names_exist() -> None:
    """What a table's last column calls or raises is there, in the package or on a connection."""
    cells = [line.rsplit("|", 2)[1] for line in GUIDE.splitlines() if line.startswith("| ")]
    code = " ".join(re.findall(r"`([^`]*)`", " ".join(cells)))
    known = {
        *db.__all__,
        *db.repository.__all__,
        *celery.__all__,
        *fastapi.__all__,
        *testing.__all__,
        *dir(asyncpg.Connection),
        *dir(db.Pool),
        *Settings.model_fields,
    }
    called = set(re.findall(r"\b([a-z_]\w+)\(", code)) - {"dict", "callback"}
    raised = set(re.findall(r"\b\w+Error\b", code)) - {"AttributeError"}
    assert {*called, *raised} - known == {"gather", "getLogger"}
