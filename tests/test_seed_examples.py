"""
Every code block of the Database Module's README, run as it stands there.

The blocks are kept as text, to the letter and in that order; what had to change is said in a comment above the block.
Names that a block takes for granted are those that the package exports.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import database as db
from database.document_batches import upsert_documents
from database.settings import Settings, configure
from tests.running import client_of, run_block, run_program

# --- Quick Start

BASIC_USAGE = """
import asyncio
from database import (
    init_document_table,
    insert_document,
    get_document_by_code,
    close_connection_pool
)

async def main():
    # Initialize tables
    await init_document_table()
    
    # Insert document
    doc = await insert_document(
        name="example.md",
        code="example",
        content="Hello, World!"
    )
    print(f"Created: {doc['id']}")
    
    # Retrieve document
    fetched = await get_document_by_code("example")
    print(f"Content: {fetched['content']}")
    
    # Cleanup
    await close_connection_pool()

if __name__ == "__main__":
    asyncio.run(main())
"""  # noqa: W293

# the values are those of the test's server, the names and the order the README's
ENVIRONMENT = """
# Required
POSTGRES_DATABASE={database}
POSTGRES_USER={user}
POSTGRES_PASSWORD={password}
POSTGRES_HOST={host}
POSTGRES_PORT={port}

# Optional (with defaults)
DB_MIN_CONNECTIONS=5
DB_MAX_CONNECTIONS=20
DB_CONNECTION_TIMEOUT=30
DB_COMMAND_TIMEOUT=60
"""


def test_basic_usage(empty_database: Settings, tmp_path: Path) -> None:
    """The first program runs with the README's `.env` and prints the id and the content of what it stored."""
    url = urlsplit(empty_database.dsn)
    query = dict(part.split("=") for part in url.query.split("&"))
    values = {
        "database": url.path[1:],
        "user": url.username or "",
        "password": url.password or "",
        "host": url.hostname or unquote(query["host"]),
        "port": str(url.port or query.get("port", 5432)),
    }
    (tmp_path / ".env").write_text(ENVIRONMENT.format_map({name: unquote(value) for name, value in values.items()}))
    created, content = run_program(BASIC_USAGE, tmp_path).stdout.splitlines()
    assert re.fullmatch(r"Created: [0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", created)
    assert content == "Content: Hello, World!"


# --- Connection Management

GET_POOL = "pool = await get_connection_pool()"
CLOSE_POOL = "await close_connection_pool()"
HEALTH_CHECK = "is_healthy = await health_check()"
# `table` is a reserved word of SQL: the README means any table
GET_CONNECTION = """
async with get_db_connection() as conn:
    result = await conn.fetch("SELECT * FROM audit_log")
"""
GET_TRANSACTION = """
async with get_db_transaction() as conn:
    await conn.execute("INSERT INTO audit_log VALUES ($1)", value)
    # Automatically commits on success, rolls back on error
"""
CREATE_AUDIT_LOG = "CREATE TABLE audit_log (action text)"


async def test_connection_management(database: Settings) -> None:
    """The pool is one, is healthy, lends connections and transactions, and closes."""
    names = await run_block(GET_POOL)
    assert (await run_block(GET_POOL))["pool"] is names["pool"]
    assert (await run_block(HEALTH_CHECK))["is_healthy"] is True
    await names["pool"].execute(CREATE_AUDIT_LOG)
    await run_block(GET_TRANSACTION, value="x")
    assert [dict(row) for row in (await run_block(GET_CONNECTION))["result"]] == [{"action": "x"}]
    with pytest.raises(db.DatabaseError):
        await run_block(GET_TRANSACTION + "    raise DatabaseError('undo')", value="y")
    assert len((await run_block(GET_CONNECTION))["result"]) == 1
    await run_block(CLOSE_POOL)
    assert not db.is_pool_active()


# --- Document Operations

DOCUMENTS = {
    "init": "await init_document_table()",
    "insert": """
doc = await insert_document(
    name="doc.md",
    code="doc1",
    content="Content here"
)
""",
    "upsert": """
doc = await upsert_document(
    name="doc.md",
    code="doc1",
    content="Updated content"
)
""",
    "get": """
doc = await get_document_by_code("doc1")
if doc:
    print(doc['content'])
""",
    "list": "docs = await get_list_of_documents(limit=20, offset=0)",
    "search": 'results = await search_documents("async programming")',
    "update": 'updated = await update_document_content("doc1", "New content")',
    "delete": 'deleted = await delete_document("doc1")',
    "count": "total = await get_document_count()",
}


async def test_documents(empty_database: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """All functions for documents, in the README's order, do what it says of them."""
    await run_block(DOCUMENTS["init"])
    assert (await run_block(DOCUMENTS["insert"]))["doc"]["content"] == "Content here"
    assert (await run_block(DOCUMENTS["upsert"]))["doc"]["content"] == "Updated content"
    await run_block(DOCUMENTS["get"])
    assert capsys.readouterr().out == "Updated content\n"
    assert [doc["code"] for doc in (await run_block(DOCUMENTS["list"]))["docs"]] == ["doc1"]
    assert (await run_block(DOCUMENTS["search"]))["results"] == []
    assert (await run_block(DOCUMENTS["update"]))["updated"] is True
    assert (await run_block(DOCUMENTS["count"]))["total"] == 1
    await db.update_document_content("doc1", "Programming with async functions")
    assert [doc["code"] for doc in (await run_block(DOCUMENTS["search"]))["results"]] == ["doc1"]
    assert (await run_block(DOCUMENTS["delete"]))["deleted"] is True
    assert (await run_block(DOCUMENTS["delete"]))["deleted"] is False
    assert (await run_block(DOCUMENTS["get"]))["doc"] is None
    assert (await run_block(DOCUMENTS["count"]))["total"] == 0


# --- Chat History Operations

CHAT_HISTORY = {
    "init": "await init_chat_history_table()",
    "save": """
msg_id = await save_chat_history(
    user_id=1,
    thread_id="thread123",
    question="What is async?",
    answer="Async allows concurrent operations"
)
""",
    "recent": 'history = await get_recent_chat_history("thread123", limit=10)',
    "get": "message = await get_chat_message_by_id(msg_id)",
    "delete": "deleted = await delete_chat_message(msg_id)",
    "delete_thread": 'count = await delete_thread_history("thread123")',
    "format": """
formatted = format_chat_history(history)
# Returns: [{"role": "human", "content": "..."}, ...]
""",
}


async def test_chat_history(empty_database: Settings) -> None:
    """All functions for the chat history, in the README's order, do what it says of them."""
    await run_block(CHAT_HISTORY["init"])
    ids = [(await run_block(CHAT_HISTORY["save"]))["msg_id"] for _ in range(3)]
    history = (await run_block(CHAT_HISTORY["recent"]))["history"]
    assert [message["id"] for message in history] == ids[::-1]
    assert (await run_block(CHAT_HISTORY["get"], msg_id=ids[0]))["message"] == history[-1]
    assert (await run_block(CHAT_HISTORY["delete"], msg_id=ids[0]))["deleted"] is True
    assert (await run_block(CHAT_HISTORY["get"], msg_id=ids[0]))["message"] is None
    assert (await run_block(CHAT_HISTORY["format"], history=history))["formatted"][:2] == [
        {"role": "human", "content": "What is async?"},
        {"role": "ai", "content": "Async allows concurrent operations"},
    ]
    assert (await run_block(CHAT_HISTORY["delete_thread"]))["count"] == 2


# --- File Ingestion

INGESTION = {
    "file": """
result = await read_and_insert_md_file(
    "docs/file.md",
    code="file1"
)
""",
    "directory": """
results = await ingest_directory(
    directory_path="./documents",
    code_prefix="doc",
    file_extension=".md"
)
print(f"Ingested: {results['success_count']}/{results['total']}")
""",
    "batch": """
configs = [
    {"path": "file1.md", "code": "doc1"},
    {"path": "file2.md", "code": "doc2"}
]
results = await ingest_files_batch(configs)
""",
}


async def test_ingestion(database: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file, a directory and a list of files become documents, and the results say how many."""
    for name in ("docs/file.md", "documents/a.md", "documents/deeper/b.md", "file1.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    assert (await run_block(INGESTION["file"]))["result"]["code"] == "file1"
    await run_block(INGESTION["directory"])
    assert capsys.readouterr().out == "Ingested: 2/2\n"
    results = (await run_block(INGESTION["batch"]))["results"]
    assert (results["total"], results["success_count"], results["failed_count"]) == (2, 1, 1)  # there is no file2.md
    stored = {document["code"]: document["content"] for document in await db.get_list_of_documents()}
    assert stored == {
        "file1": "# docs/file.md\n",
        "doc/a": "# documents/a.md\n",
        "doc/deeper/b": "# documents/deeper/b.md\n",
        "doc1": "# file1.md\n",
    }


# --- Error Handling

HIERARCHY = """
DatabaseError           # Base database exception
├── ConnectionPoolError # Connection pool errors
├── ChatHistoryError   # Chat history errors
├── DocumentError      # Document operation errors
└── IngestionError     # File ingestion errors
"""
HANDLE_ERRORS = """
from database import DocumentError, DatabaseError

try:
    doc = await get_document_by_code("invalid")
except DocumentError as e:
    print(f"Document error: {e}")
except DatabaseError as e:
    print(f"Database error: {e}")
"""


def test_hierarchy() -> None:
    """The exceptions are those of the README's tree."""
    base, *others = re.findall(r"\w+Error\b", HIERARCHY)
    assert {getattr(db, name).__bases__ for name in others} == {(getattr(db, base),)}


async def test_error_handling(
    empty_database: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing table is a DocumentError, a missing server a DatabaseError, a missing document no error."""
    await run_block(HANDLE_ERRORS)
    assert capsys.readouterr().out.startswith("Document error: cannot read document 'invalid': relation \"document\" ")
    await db.init_document_table()
    assert (await run_block(HANDLE_ERRORS))["doc"] is None
    await db.close_connection_pool()
    configure(None)
    monkeypatch.setenv("DB_EMBEDDED", "never")
    await run_block(HANDLE_ERRORS)
    told = capsys.readouterr().out
    assert told.startswith("Database error: ")
    assert "nothing says which server to use" in told


# --- Advanced Usage

# `List` was not imported
CONCURRENT = """
from typing import List
import asyncio

async def fetch_multiple_documents(codes: List[str]):
    \"""Fetch multiple documents concurrently\"""
    tasks = [get_document_by_code(code) for code in codes]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return [r for r in results if not isinstance(r, Exception)]
"""
TRANSACTION = """
async def transfer_documents():
    \"""Perform multiple operations in a transaction\"""
    try:
        async with get_db_transaction() as conn:
            # All operations are atomic
            await conn.execute(
                "UPDATE document SET content = $1 WHERE code = $2",
                "Updated", "doc1"
            )
            await conn.execute(
                "INSERT INTO audit_log (action) VALUES ($1)",
                "Document updated"
            )
            # Auto-commits on success
    except DatabaseError:
        # Auto-rolls back on error
        print("Transaction failed")
"""
RETRY = """
from database.connect_db import execute_with_retry

async def resilient_query():
    \"""Query with automatic retry on transient failures\"""
    result = await execute_with_retry(
        "SELECT * FROM document WHERE code = $1",
        "doc1",
        max_retries=3,
        retry_delay=1.0
    )
    return result
"""
# `asyncio` was imported by a block above
PAGINATION = """
import asyncio

async def paginate_documents(page: int = 1, page_size: int = 20):
    \"""Efficient pagination with total count\"""
    offset = (page - 1) * page_size
    
    # Fetch page and total count concurrently
    docs_task = get_list_of_documents(limit=page_size, offset=offset)
    count_task = get_document_count()
    
    documents, total = await asyncio.gather(docs_task, count_task)
    
    return {
        "documents": documents,
        "page": page,
        "page_size": page_size,
        "total": total,
        "total_pages": (total + page_size - 1) // page_size
    }
"""  # noqa: W293


async def test_concurrent_operations(database: Settings) -> None:
    """Many reads at once give each its own document, in the order asked for; None where there is none."""
    codes = [f"doc{number}" for number in range(50)]
    await upsert_documents([{"name": code, "code": code, "content": code} for code in codes])
    fetched = await (await run_block(CONCURRENT))["fetch_multiple_documents"]([*codes, "missing"])
    assert [document and document["content"] for document in fetched] == [*codes, None]


async def test_transaction(database: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Both statements are stored, or, where the second fails, neither; that is a DatabaseError."""
    await db.insert_document("doc.md", "doc1", "As it was")
    transfer_documents = (await run_block(TRANSACTION))["transfer_documents"]
    await transfer_documents()
    assert capsys.readouterr().out == "Transaction failed\n"
    assert (await db.get_document_by_code("doc1") or {})["content"] == "As it was"
    await db.execute_with_retry(CREATE_AUDIT_LOG)
    await transfer_documents()
    assert capsys.readouterr().out == ""
    assert (await db.get_document_by_code("doc1") or {})["content"] == "Updated"
    assert await db.execute_with_retry("SELECT action FROM audit_log") == [{"action": "Document updated"}]


async def test_retry(database: Settings) -> None:
    """The rows come back as dicts, also when the connection was lost on the way."""
    resilient_query = (await run_block(RETRY))["resilient_query"]
    assert await resilient_query() == []
    await db.insert_document("doc.md", "doc1", "text")
    async with db.get_db_connection() as conn:
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert [row["code"] for row in await resilient_query()] == ["doc1"]


async def test_pagination(database: Settings) -> None:
    """Pages do not overlap, and with the total and the number of pages they are complete."""
    paginate_documents = (await run_block(PAGINATION))["paginate_documents"]
    assert (await paginate_documents())["total_pages"] == 0
    await upsert_documents([{"name": "x", "code": str(number), "content": "x"} for number in range(45)])
    pages = [await paginate_documents(page) for page in (1, 2, 3)]
    assert {(page["total"], page["total_pages"]) for page in pages} == {(45, 3)}
    assert [len(page["documents"]) for page in pages] == [20, 20, 5]
    assert len({document["code"] for page in pages for document in page["documents"]}) == 45


# --- Application Integration

# on_event became a lifespan: FastAPI has deprecated on_event and ignores it beside a lifespan
FASTAPI = """
from contextlib import asynccontextmanager
from fastapi import FastAPI, HTTPException
from database import (
    get_connection_pool,
    close_connection_pool,
    init_document_table,
    get_document_by_code,
    DocumentError
)

@asynccontextmanager
async def lifespan(app):
    await get_connection_pool()
    await init_document_table()
    print("Database initialized")
    yield
    await close_connection_pool()
    print("Database closed")

app = FastAPI(lifespan=lifespan)

@app.get("/documents/{code}")
async def get_document(code: str):
    try:
        doc = await get_document_by_code(code)
        if doc is None:
            raise HTTPException(status_code=404, detail="Document not found")
        return doc
    except DocumentError as e:
        raise HTTPException(status_code=500, detail=str(e))
"""
# on_event became a lifespan: Starlette 1.0 has removed on_event. The route is new, the README's application had none
STARLETTE = """
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from database import get_connection_pool, close_connection_pool, health_check

@asynccontextmanager
async def lifespan(app):
    await get_connection_pool()
    yield
    await close_connection_pool()

async def health(request):
    return JSONResponse(await health_check())

app = Starlette(lifespan=lifespan, routes=[Route("/health", health)])
"""


async def test_fastapi(empty_database: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """The FastAPI application opens the pool, serves documents, says 404 and 500 where it should, closes the pool."""
    async with client_of((await run_block(FASTAPI))["app"]) as client:
        assert (await client.get("/documents/doc1")).json() == {"detail": "Document not found"}
        await db.insert_document("doc.md", "doc1", "text", metadata={"tags": ["a"]})
        document = (await client.get("/documents/doc1")).json()
        assert (document["content"], document["metadata"]) == ("text", {"tags": ["a"]})
        await db.execute_with_retry("DROP TABLE document")
        assert (await client.get("/documents/doc1")).status_code == 500
    assert capsys.readouterr().out == "Database initialized\nDatabase closed\n"


async def test_starlette(database: Settings) -> None:
    """The Starlette application opens the pool, answers, and closes the pool."""
    async with client_of((await run_block(STARLETTE))["app"]) as client:
        assert (await client.get("/health")).json() is True


# --- Performance Considerations, Troubleshooting

HIGH_TRAFFIC = """
DB_MIN_CONNECTIONS=10
DB_MAX_CONNECTIONS=50
"""
LOW_TRAFFIC = """
DB_MIN_CONNECTIONS=2
DB_MAX_CONNECTIONS=10
"""
POOL_STATS = """
async def get_pool_stats():
    pool = await get_connection_pool()
    return {
        "size": pool.get_size(),
        "idle": pool.get_idle_size(),
        "min_size": pool.get_min_size(),
        "max_size": pool.get_max_size()
    }
"""
DIAGNOSE = """
from database import health_check

async def diagnose():
    is_healthy = await health_check()
    if not is_healthy:
        print("Database connection failed!")
        # Check environment variables
        # Check network connectivity
        # Check PostgreSQL service
"""
LOGGING = """
import logging

logging.basicConfig(
    level=logging.DEBUG,
    format='%(asctime)s - %(name)s - %(levelname)s - %(message)s'
)
"""


@pytest.mark.parametrize(("text", "sizes"), [(HIGH_TRAFFIC, (10, 50)), (LOW_TRAFFIC, (2, 10))])
async def test_pool_tuning(tmp_path: Path, text: str, sizes: tuple[int, int]) -> None:
    """The sizes of the pool come from the README's variables, here in `.env`."""
    (tmp_path / ".env").write_text(text)
    stats = await db.get_pool_stats()
    assert (stats["min_size"], stats["max_size"]) == sizes


async def test_pool_stats(database: Settings) -> None:
    """The README's own function works on the pool, and the package's function of that name says the same and more."""
    stats = await (await run_block(POOL_STATS))["get_pool_stats"]()
    assert stats == {"size": 1, "idle": 1, "min_size": 0, "max_size": 10}
    assert stats.items() <= (await db.get_pool_stats()).items()


async def test_diagnosis(database: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """The diagnosis is silent where all is well and says so where the server cannot be reached."""
    diagnose = (await run_block(DIAGNOSE))["diagnose"]
    await diagnose()
    assert capsys.readouterr().out == ""
    await db.close_connection_pool()
    configure(Settings(host="127.0.0.1", port=1, user="nobody", connection_timeout=1))
    await diagnose()
    assert capsys.readouterr().out == "Database connection failed!\n"


def test_debug_logging(empty_database: Settings, tmp_path: Path) -> None:
    """The package logs under its name, and tells neither the password nor what is stored."""
    url = urlsplit(empty_database.dsn)
    password = url.password or "sesame"
    hosts = url.netloc.rpartition("@")[2]
    url = url._replace(netloc=f"{url.username}:{password}@{hosts}")
    program = run_program(LOGGING + BASIC_USAGE, tmp_path, DATABASE_URL=url.geturl())
    assert " - database - INFO - applied 0001_document.sql" in program.stderr
    assert password not in program.stderr
    assert "Hello, World!" not in program.stderr
    assert logging.getLogger("database").handlers == []  # where it goes is the application's choice
