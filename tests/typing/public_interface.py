"""What a type checker sees of the public functions. Checked by mypy, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, assert_type

import database as db


async def check_results() -> None:
    """Plain dicts, optional where there may be nothing."""
    assert_type(await db.insert_document("n", "c", "t"), dict[str, Any])
    assert_type(await db.get_document_by_code("c"), dict[str, Any] | None)
    assert_type(await db.get_list_of_documents(), list[dict[str, Any]])
    assert_type(await db.update_document_content("c", "t"), bool)
    assert_type(db.iter_documents(), AsyncIterator[dict[str, Any]])
    assert_type(await db.save_chat_history(1, "t", "q", "a"), str)
    assert_type(db.format_chat_history([]), list[dict[str, str]])
    assert_type(await db.execute_with_retry("SELECT 1"), list[dict[str, Any]] | str)
    assert_type(await db.health_check(), bool)


async def check_transactions() -> None:
    """The arguments and the result of a closure are those of `run_in_transaction`."""

    async def work(conn: db.Connection, number: int, *, text: str) -> float:
        return float(number) + len(text)

    assert_type(await db.run_in_transaction(work, 1, text="x"), float)
    await db.run_in_transaction(work, "1", text="x")  # type: ignore[arg-type]
    await db.run_in_transaction(work, 1)  # type: ignore[call-arg]
    block: AbstractAsyncContextManager[db.Connection] = db.get_db_transaction(isolation="serializable")
    db.get_db_transaction(isolation="SERIALIZABLE")  # type: ignore[arg-type]
    async with block as conn:
        await db.delete_document("c", conn=conn)


def check_settings(style: Literal["human_ai", "openai"]) -> None:
    """The arguments are the fields; the URL may be a plain string."""
    db.configure(db.Settings(database_url="postgresql://localhost/d", max_connections=3))
    db.Settings(max_connections="three")  # type: ignore[arg-type]
    db.format_chat_history([], style=style)
