"""
What the READMEs of psycopg-toolkit, the Database Service and core.db show of tables and schemas, run as it stands.

The blocks are kept as text, to the letter; what had to change is said in a comment above the block. Names that a block
takes for granted are those that the package exports.
"""

from __future__ import annotations

import re

import pytest

import database as db
from database import repository
from database.settings import Settings
from tests.running import run_block

# --- the Database Service

# functions in place of SchemaSetup(), which had to be closed; `await setup_project()` was left to the reader
SETUP_PROJECT = """
async def setup_project():
    # Ensure public schema is ready
    await ensure_public_schema()

    # Create or verify a project schema
    await ensure_project_schema("new_project")

    # Verify all required tables exist
    verification = await verify_schema("new_project")
    for table, exists in verification.items():
        print(f"Table {table}: {'✅' if exists else '❌'}")

await setup_project()
"""
# the same
SCHEMA_OPERATIONS = """
# Create project schema
await ensure_project_schema("my_project")

# Verify schema
verification = await verify_schema("my_project")
for table, exists in verification.items():
    print(f"Table {table}: {'✓' if exists else '✗'}")
"""
# the module in place of DBOperator(); the table users is none of the Database Service's
BASIC_USAGE = """
async def get_user_data():
    # Get a user by ID
    user = await db.get_by_uuid("users", "550e8400-e29b-41d4-a716-446655440000")

    # Insert a new record
    new_record = await db.insert("content", {
        "title": "New Content",
        "content": "This is the content",
        "content_type": "article"
    }, schema="b2b_saas")

    return user, new_record

user, new_record = await get_user_data()
"""
REQUIRED_TABLES = """
- **content**: Main table for generated content
- **metadata**: Additional content metadata
- **vocabulary**: Project-specific terminology
"""
CORE_TABLES = """
- **projects**: Project definitions and metadata
- **prompts**: Stored prompts for the LLM
- **object_models**: Schema definitions for content types
- **llm_usage**: Tracking of LLM usage and costs
"""


async def test_working_with_schemas(empty_database: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Every table is there, also the second time, and missing ones are told."""
    for _ in range(2):
        await run_block(SETUP_PROJECT)
        assert capsys.readouterr().out == "Table content: ✅\nTable metadata: ✅\nTable vocabulary: ✅\n"
    await run_block(SCHEMA_OPERATIONS)
    assert capsys.readouterr().out == "Table content: ✓\nTable metadata: ✓\nTable vocabulary: ✓\n"
    await repository.execute_raw("DROP TABLE my_project.vocabulary")
    await run_block(SCHEMA_OPERATIONS)
    assert capsys.readouterr().out.endswith("Table vocabulary: ✗\n")


async def test_the_tables_are_those_of_the_readme(empty_database: Settings) -> None:
    """Both lists, in their order."""
    await db.ensure_public_schema()
    await db.ensure_project_schema("p")
    assert await db.verify_schema("p") == dict.fromkeys(re.findall(r"\*\*(\w+)\*\*", REQUIRED_TABLES), True)
    assert await db.verify_schema("public") == dict.fromkeys(re.findall(r"\*\*(\w+)\*\*", CORE_TABLES), True)


async def test_basic_usage(empty_database: Settings) -> None:
    """A record of a project, in the project's schema."""
    await db.create_table("users", {"username": "text"})
    await db.ensure_project_schema("b2b_saas")
    names = await run_block(BASIC_USAGE, db=repository)
    assert names["user"] is None and names["new_record"]["title"] == "New Content"
    assert await repository.count("content", schema="b2b_saas") == 1


FORMATTING = """
- JSON data (dicts and lists)
- Datetime objects
- Long strings
- Nested structures
"""


async def test_formatting_utilities() -> None:
    """The four kinds of values that the README names are handled by all three functions."""
    names = await run_block("""
from datetime import datetime, timezone
data = {"list": [1, {"deep": {"deeper": [datetime(2024, 2, 29, tzinfo=timezone.utc)]}}], "long": "x" * 1000}
shown, stored, response = format_for_log(data, max_depth=9), format_variable(data), format_response(data)
""")
    deep = [1, {"deep": {"deeper": ["2024-02-29T00:00:00+00:00"]}}]
    assert names["stored"] == names["response"] == {"list": deep, "long": "x" * 1000}
    assert '"2024-02-29T00:00:00+00:00"' in names["shown"] and "… (+800 characters)" in names["shown"]
    assert len(FORMATTING.split("\n")) == 6


# --- psycopg-toolkit

# no base class; the two methods are the arguments, in place of tm.with_schema(UserSchemaManager())
SCHEMA_MANAGEMENT = """
class UserSchemaManager:
    async def create_schema(self, conn) -> None:
        await conn.execute(\"""
            CREATE TABLE IF NOT EXISTS users (
                id UUID PRIMARY KEY,
                email TEXT UNIQUE NOT NULL
            )
        \""")

    async def drop_schema(self, conn) -> None:
        await conn.execute("DROP TABLE IF EXISTS users")

# Usage
manager = UserSchemaManager()
async with temporary_schema(manager.create_schema, manager.drop_schema) as _:
    # Schema available here
    there = await db.table_exists("users")
    pass  # Automatically dropped after
"""


async def test_schema_management(empty_database: Settings) -> None:
    """There in the block, and gone after it, as the README says."""
    assert (await run_block(SCHEMA_MANAGEMENT, db=repository))["there"] is True
    assert not await repository.table_exists("users")


# --- core.db

# arguments in place of mapped classes
MIXINS = """
await create_table("users", {"name": "varchar(100) not null", "email": "varchar(255) not null unique"})
await create_table("products", {"name": "varchar(200) not null"}, timestamps=False)
await create_table("categories", {"name": "varchar(100) not null"}, key="uuid_text", timestamps=False)
await create_table("orders", {"order_number": "varchar(50) not null"}, key="identity", uuid_column=True,
                   timestamps=False)
await create_table("articles", {"title": "varchar(200) not null"}, key="uuid_text")
"""
ADDED = {  # "Adds: id: UUID (primary key)" and so on
    "users": {"id": "uuid", "created_at": "timestamp with time zone", "updated_at": "timestamp with time zone"},
    "products": {"id": "uuid"},
    "categories": {"id": "character varying(36)"},
    "orders": {"id": "bigint", "uuid": "uuid"},
    "articles": {
        "id": "character varying(36)",
        "created_at": "timestamp with time zone",
        "updated_at": "timestamp with time zone",
    },
}


async def test_mixins(empty_database: Settings) -> None:
    """Each table has the columns that the README says its mixin adds."""
    await run_block(MIXINS)
    for table, added in ADDED.items():
        columns = {each["name"]: each["type"] for each in await repository.describe_table(table)}
        assert {name: columns[name] for name in added} == added
        assert len(columns) == len(added) + (2 if table == "users" else 1)
