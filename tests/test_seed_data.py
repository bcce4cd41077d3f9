"""Seed data, copies of rows, cleaning up, test modes. Against a real server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import pytest

import database as db
from database import Connection, Settings, repository
from database.testing import (
    cleanup_non_protected,
    clone_project,
    clone_prompt_template,
    clone_record,
    get_active_e2e_tests,
    in_test_mode,
    load_seed_data,
)
from database.testing.databases import used_by_default
from database.testing.foreign_keys import ForeignKey, in_order

from .conftest import database_url

PROJECT = "0197a000-0000-7000-8000-000000000001"
PROMPT = "0197a000-0000-7000-8000-000000000002"
SEED = {
    "prompts": [
        {"id": PROMPT, "projectId": PROJECT, "name": "greet", "template": "Hello {name}", "variables": {"a": 1}}
    ],
    "projects": [
        {"id": PROJECT, "name": "Seed", "schema_name": "seed"},
        {"name": "Another", "description": "with fewer columns, and no key"},
    ],
}


@pytest.fixture
def seed_file(tmp_path: Path) -> Path:
    path = tmp_path / "seed_projects.json"
    path.write_text(json.dumps(SEED))
    return path


@pytest.fixture
async def projects(db_transaction: Connection) -> Connection:
    await db.ensure_public_schema()
    return db_transaction


# --- seed data


async def test_seed_data_may_be_loaded_again(projects: Connection, seed_file: Path) -> None:
    """Tables that others refer to come first; what was changed is as in the file again, and nothing is there twice."""
    for _ in range(2):
        assert await load_seed_data(seed_file) == {"prompts": 1, "projects": 2}
        rows = await repository.fetch("projects", order_by="name")
        assert [(row["name"], row["is_protected"]) for row in rows] == [("Another", True), ("Seed", True)]
        prompt = await repository.get_by_id("prompts", PROMPT)
        assert (prompt["project_id"], prompt["variables"]) == (PROJECT, {"a": 1})
        await repository.update_by_id("prompts", PROMPT, {"template": "changed"})
    await load_seed_data(seed_file)
    assert (await repository.get_by_id("prompts", PROMPT))["template"] == "Hello {name}"


async def test_rows_may_refer_to_each_other_and_bring_numbers(projects: Connection, tmp_path: Path) -> None:
    """A circle of foreign keys is no obstacle, numbers that are given are not given out again; every type arrives."""
    await projects.execute("""
        CREATE TYPE mood AS ENUM ('happy');
        CREATE SCHEMA other;
        CREATE TABLE a (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, b int NOT NULL);
        CREATE TABLE other.b (id serial PRIMARY KEY, a int NOT NULL REFERENCES a,
                              moods mood[], day date, raw bytea, js json);
        ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES other.b;
        CREATE TABLE keyless (word text, at timestamptz, js json);
    """)
    path = tmp_path / "circle.json"
    path.write_text(
        json.dumps(
            {
                "a": [{"id": 7, "b": 8}],
                "other.b": [{"id": 8, "a": 7, "moods": ["happy"], "day": "2024-02-29", "raw": "\\x00ff", "js": [1]}],
                "keyless": [{"word": None, "at": "2024-02-29T12:00:00Z", "js": {"x": 1}}, {"word": "x"}],
            }
        )
    )
    for _ in range(2):
        assert await load_seed_data(path) == {"a": 1, "other.b": 1, "keyless": 2}
    assert await repository.count("keyless") == 2
    b = await repository.get_by_id("b", 8, schema="other")
    assert (b["moods"], b["raw"], b["js"]) == (["happy"], b"\x00\xff", [1])
    assert (await repository.insert("a", {"b": 8}))["id"] == 8


async def test_rows_of_tables_of_odd_names_and_types(db_transaction: Connection, tmp_path: Path) -> None:
    """A quote in a name, a type without equality, a unique key that is not given: loaded again, nothing is twice."""
    await db_transaction.execute("""
        CREATE TABLE "o'dd" (id serial PRIMARY KEY, "wo""rd" text);
        CREATE TABLE place (at point, within polygon);
        CREATE TABLE maybe (id serial PRIMARY KEY, code text UNIQUE, n int);
    """)
    seed = {
        "o'dd": [{"id": 5, 'wo"rd': "a"}],
        "place": [{"at": "(1,2)", "within": "((0,0),(2,0),(2,2))"}],
        "maybe": [{"code": None, "n": 1}, {"code": "x", "n": 2}],
    }
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(seed))
    for _ in range(2):
        assert await load_seed_data(path) == {"o'dd": 1, "place": 1, "maybe": 2}
    assert [await repository.count(table) for table in seed] == [1, 1, 2]
    assert (await repository.insert("o'dd", {'wo"rd': "b"}))["id"] == 6


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ('{"projects": [{}]}', db.InvalidDataError, "a row of 'projects' has no values"),
        ("{", db.InvalidDataError, "line 1"),
        ("[]", db.InvalidDataError, "no object"),
        ('{"projects": {}}', db.InvalidDataError, "'projects' are no list"),
        ('{"projcts": []}', db.SchemaError, "Did you mean: projects"),
        ('{"projects": [{"nmae": "x"}]}', db.ColumnMatchError, "name"),
        ('{"llm_usage": [{"model": "x", "total_tokens": 1}]}', db.InvalidDataError, "total_tokens"),
        ('{"prompts": [{"name": "x", "template": "x", "version": 0}]}', db.RepositoryError, "prompts"),
    ],
)
async def test_a_wrong_file_is_an_error_that_says_where(
    projects: Connection, tmp_path: Path, text: str, kind: type[Exception], words: str
) -> None:
    path = tmp_path / "seed.json"
    path.write_text(text)
    with pytest.raises(kind, match=words):
        await load_seed_data(path)


async def test_a_file_that_is_not_there(db_transaction: Connection, tmp_path: Path) -> None:
    with pytest.raises(db.InvalidDataError, match=r"nothing\.json"):
        await load_seed_data(tmp_path / "nothing.json")


def test_order_of_tables() -> None:
    """Each step after what it refers to; what refers to each other is one."""

    def key(table: str, to: str) -> ForeignKey:
        return ForeignKey(("public", table), ("x",), ("public", to), ("id",))

    keys = [key("d", "c"), key("c", "b"), key("b", "c"), key("b", "a"), key("e", "e"), key("a", "elsewhere")]
    steps = in_order([("public", name) for name in "dcbae"], keys)
    assert [sorted(name for _, name in step) for step in steps] == [["a"], ["b", "c"], ["d"], ["e"]]


# --- copies


async def test_clones(projects: Connection, seed_file: Path) -> None:
    """A copy has a new key, is not protected, and differs where it must."""
    await load_seed_data(seed_file)
    copy = await clone_project(PROJECT)
    assert copy["id"] != PROJECT
    assert copy["name"].startswith("Seed-")
    assert (copy["is_protected"], copy["schema_name"]) == (False, None)
    named = await clone_project(PROJECT, uuid4(), {"name": "Mine"})
    assert named["name"] == "Mine"
    prompt = await clone_prompt_template(PROMPT, overrides={"project_id": named["id"]})
    assert (prompt["name"], prompt["template"]) == ("greet", "Hello {name}")
    assert (await clone_prompt_template(PROMPT))["name"].startswith("greet-")
    with pytest.raises(db.RecordNotFoundError):
        await clone_project(uuid4())


async def test_clones_of_other_tables(projects: Connection) -> None:
    """Numbers are given out by the server, texts keep their limit, and what cannot be found is asked for."""
    await projects.execute("""
        CREATE TABLE item (id serial PRIMARY KEY, code varchar(12) UNIQUE, n int,
                           twice int GENERATED ALWAYS AS (n * 2) STORED);
        CREATE TABLE counted (id int PRIMARY KEY, n int UNIQUE);
    """)
    row = await repository.insert("item", {"code": "abcdefghijkl", "n": 4})
    copy = await clone_record("public", "item", row["id"], {"N": 5})
    assert (copy["id"], copy["n"], copy["twice"], len(copy["code"])) == (row["id"] + 1, 5, 10, 12)
    await repository.insert("counted", {"id": 1, "n": 1})
    with pytest.raises(db.InvalidDataError, match="overrides"):
        await clone_record("public", "counted", 1, {"n": 2})
    with pytest.raises(db.InvalidDataError, match="another n"):
        await clone_record("public", "counted", 1, {"id": 2})
    assert await clone_record("public", "counted", 1, {"id": 2, "n": 2}) == {"id": 2, "n": 2}


async def test_clones_get_what_must_differ_from_the_server_if_it_can(db_transaction: Connection) -> None:
    """Numbers and uuids by their defaults; nothing is never the same; a short text is all mark."""
    await db_transaction.execute("""
        CREATE TABLE item (id serial PRIMARY KEY, number serial UNIQUE, token uuid UNIQUE DEFAULT gen_random_uuid(),
                           external int UNIQUE, code varchar(5) UNIQUE);
    """)
    row = await repository.insert("item", {"code": "abcde"})
    copies = [await clone_record("public", "item", row["id"]) for _ in range(2)]
    for name in ("id", "number", "token", "code"):
        assert len({each[name] for each in (row, *copies)}) == 3
    assert [each["external"] for each in copies] == [None, None]


# --- cleaning up


async def test_cleaning_up_leaves_seed_data(projects: Connection, seed_file: Path) -> None:
    """and tables that know no protection."""
    await load_seed_data(seed_file)
    copy = await clone_project(PROJECT)
    await clone_prompt_template(PROMPT, overrides={"project_id": copy["id"]})
    await repository.insert("llm_usage", {"model": "m", "project_id": copy["id"]})
    await db.insert_document("n", "c", "t")
    deleted = await cleanup_non_protected()
    assert deleted["public.projects"] == 1
    assert await repository.count("projects") == 2
    assert await repository.count("prompts") == 1
    assert await repository.count("llm_usage") == 1
    assert await db.get_document_count() == 1
    assert not any((await cleanup_non_protected()).values())


async def test_a_database_that_is_not_for_tests_is_not_cleaned_up(fresh_database: Settings) -> None:
    """Unless it is named. Nor does an end-to-end test begin there."""
    name = "contest_shop"  # which has no word "test" in it
    await repository.execute_raw(f"CREATE DATABASE {name}")
    await db.close_connection_pool()
    try:
        with used_by_default(
            fresh_database.model_copy(update={"database_url": database_url(fresh_database.dsn, name)})
        ):
            await db.ensure_public_schema()
            await repository.insert("projects", {"name": "x"})
            with pytest.raises(db.RepositoryError, match="does not look like one for tests"):
                await cleanup_non_protected()
            with pytest.raises(db.RepositoryError, match="does not look like one for tests"):
                async with in_test_mode("e2e", "x"):
                    pass
            assert await repository.count("projects") == 1
            assert (await cleanup_non_protected(database=name))["public.projects"] == 1
            await db.close_connection_pool()
    finally:
        await repository.execute_raw(f"DROP DATABASE {name} WITH (FORCE)")


# --- modes


async def test_mock_mode_stores_nothing(fresh_database: Settings, seed_file: Path) -> None:
    """Rows are made up, seed data is loaded, and all is undone."""
    await db.ensure_public_schema()
    async with in_test_mode("mock", seed_data=seed_file, mock_rows={"llm_usage": 5, "public.prompts": 3}, seed=1):
        assert await repository.count("llm_usage") == 5
        assert await repository.count("prompts") == 4
        await repository.insert("projects", {"name": "mine"})
    assert await repository.count("projects") == 0


async def test_end_to_end_mode_commits_and_cleans_up(fresh_database: Settings, seed_file: Path) -> None:
    """The last test that ends deletes what is not protected; until then each is in the register."""
    await db.ensure_public_schema()
    assert await get_active_e2e_tests() == []
    async with in_test_mode("e2e", "first", seed_data=seed_file):
        with pytest.raises(ZeroDivisionError):
            async with in_test_mode("e2e", "second"):
                await repository.insert("projects", {"name": "mine"})
                assert [test["name"] for test in await get_active_e2e_tests()] == ["first", "second"]
                raise ZeroDivisionError
        assert [test["name"] for test in await get_active_e2e_tests()] == ["first"]
        assert await repository.count("projects") == 3
    assert await get_active_e2e_tests() == []
    assert await repository.count("projects") == 2


async def test_end_to_end_tests_may_begin_at_once(fresh_database: Settings) -> None:
    """Also the first ones, which make the register."""

    async def run(name: str) -> int:
        async with in_test_mode("e2e", name):
            return len(await get_active_e2e_tests())

    assert max(await asyncio.gather(*(run(f"test {number}") for number in range(8)))) >= 1
    assert await get_active_e2e_tests() == []


async def test_production_mode_changes_nothing(fresh_database: Settings) -> None:
    async with in_test_mode("production"):
        await db.insert_document("n", "c", "t")
    assert await db.get_document_count() == 1
    with pytest.raises(ValueError, match="e2e"):
        async with in_test_mode("staging"):  # type: ignore[arg-type]  # what a caller without a checker may write
            pass
