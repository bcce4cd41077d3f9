"""The tables of projects, against a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import database as db
from database import project_schemas, repository
from database.settings import Settings

from .program import write_files

SHARED = {"projects": True, "prompts": True, "object_models": True, "llm_usage": True}
OWN = {"content": True, "metadata": True, "vocabulary": True}


async def test_made_once_however_many_ask(empty_database: Settings) -> None:
    """True for one of them; then all tables are there, and init_document_table() and others do not mind."""
    made = await asyncio.gather(*[db.ensure_public_schema() for _ in range(30)])
    assert sorted(made) == [False] * 29 + [True]
    made = await asyncio.gather(*[db.ensure_project_schema("b2b_saas") for _ in range(30)])
    assert any(made) and not await db.ensure_project_schema("b2b_saas")
    await db.init_document_table()
    assert await db.verify_schema("public") == SHARED
    assert await db.verify_schema("b2b_saas") == OWN


async def test_verifying_says_what_is_missing(empty_database: Settings) -> None:
    """Also where there is no schema at all, and for tables of one's own."""
    nothing = dict.fromkeys(OWN, False)
    assert await db.verify_schema("gone") == await db.verify_schema("a\0b") == nothing
    await db.ensure_project_schema("project")
    await repository.execute_raw("DROP TABLE project.vocabulary")
    assert await db.verify_schema("project") == OWN | {"vocabulary": False}
    assert await db.verify_schema("project", tables=["content", "more"]) == {"content": True, "more": False}


async def test_the_tables_hold_together(empty_database: Settings) -> None:
    """Foreign keys, unique keys, generated columns, JSON."""
    await db.ensure_public_schema()
    await db.ensure_project_schema("acme")
    project = await repository.insert("projects", {"name": "Acme", "schema_name": "acme", "settings": {"a": [1]}})
    prompt = {"project_id": project["id"], "name": "summary", "version": 1, "template": "Sum up {{text}}"}
    prompt = await repository.upsert("prompts", prompt, ["project_id", "name", "version"])
    usage = {"project_id": project["id"], "prompt_id": prompt["id"], "model": "m", "prompt_tokens": 3, "cost": "0.001"}
    usage = await repository.insert("llm_usage", usage | {"completion_tokens": 4, "response": {"ok": True}})
    assert usage["total_tokens"] == 7
    await repository.insert("object_models", {"name": "article", "definition": {"type": "object"}})
    with pytest.raises(db.RepositoryError, match="there is such a row already"):
        await repository.insert("object_models", {"name": "article", "definition": {}})
    content = await repository.insert(
        "content", {"title": "T", "content": "c", "content_type": "article"}, schema="acme"
    )
    await repository.insert("metadata", {"content_id": content["id"], "key": "k", "value": [1, None]}, schema="acme")
    await repository.insert("vocabulary", {"term": "t", "synonyms": ["u"]}, schema="acme")
    await repository.delete_by_id("content", content["id"], schema="acme")
    assert await repository.count("metadata", schema="acme") == 0
    await repository.delete_by_id("projects", project["id"])
    assert (await repository.get_by_id("llm_usage", usage["id"]))["project_id"] is None
    assert await repository.count("prompts") == 0


async def test_dropping_needs_the_name_twice(empty_database: Settings) -> None:
    """And only what was made here is dropped."""
    await db.ensure_project_schema("acme")
    await repository.create_schema("other")
    with pytest.raises(db.SchemaError, match="say confirm='acme'"):
        await db.drop_project_schema("acme", confirm="acne")
    for name in ("public", "information_schema"):
        with pytest.raises(db.SchemaError, match="is not the schema of a project"):
            await db.drop_project_schema(name, confirm=name)
    with pytest.raises(db.SchemaError, match=r"ensure_project_schema\(\) has not made it"):
        await db.drop_project_schema("other", confirm="other")
    assert await db.drop_project_schema("acme", confirm="acme") is True
    assert await db.drop_project_schema("acme", confirm="acme") is False
    assert await repository.schema_exists("other") and not await repository.schema_exists("acme")
    assert await db.ensure_project_schema("acme") is True


async def test_names_are_names(empty_database: Settings) -> None:
    """Any that PostgreSQL takes, quotes and semicolons included; no other."""
    name = 'it\'s "mine"; DROP SCHEMA public CASCADE; --'
    assert await db.ensure_project_schema(name)
    assert await db.verify_schema(name) == OWN
    assert await db.drop_project_schema(name, confirm=name)
    for wrong in ("", "pg_mine", "a\0b", "ü" * 32, "public", "information_schema"):
        with pytest.raises(db.SchemaError):
            await db.ensure_project_schema(wrong)


async def test_other_files(empty_database: Settings, tmp_path: Path) -> None:
    """A copy of ours with one more file; one that has changed is an error that names it."""
    ours = Path(project_schemas.__file__).parent / "sql" / "project" / "0001_content.sql"
    more = "-- migrate:up\nALTER TABLE content ADD summary text;\n"
    write_files(tmp_path, {ours.name: ours.read_bytes(), "0002_summary.sql": more})
    await db.ensure_project_schema("acme")
    assert await db.ensure_project_schema("acme", directory=tmp_path) is True
    assert "summary" in [each["name"] for each in await repository.describe_table("content", schema="acme")]
    write_files(tmp_path, {"0002_summary.sql": more + "-- changed"})
    with pytest.raises(db.SchemaError, match=r"0002_summary\.sql is not the file that was applied"):
        await db.ensure_project_schema("acme", directory=tmp_path)
    assert await db.ensure_project_schema("acme") is False


async def test_a_table_of_somebody_elses_is_left_alone(empty_database: Settings) -> None:
    """The error names the file, and nothing of it stays."""
    await repository.execute_raw("CREATE TABLE prompts (id integer)")
    with pytest.raises(db.SchemaError, match=r'cannot apply 0001_projects\.sql, line \d+: relation "prompts" already'):
        await db.ensure_public_schema()
    assert await repository.list_tables() == ["prompts"]


async def test_in_the_callers_transaction(empty_database: Settings) -> None:
    """Made, verified and dropped with conn=; undone with it."""
    with pytest.raises(RuntimeError):
        async with db.get_db_transaction() as conn:
            await db.ensure_public_schema(conn=conn)
            await db.ensure_project_schema("acme", conn=conn)
            assert await db.verify_schema("acme", conn=conn) == OWN
            assert await db.drop_project_schema("acme", confirm="acme", conn=conn)
            raise RuntimeError
    assert await db.verify_schema("public") == dict.fromkeys(SHARED, False)
