"""
Tests that leave no trace:
`pytest -o asyncio_mode=auto -o asyncio_default_fixture_loop_scope=function transactions_in_tests.py`.
Needs `pgdatabase[testing]`.

Both options are better placed in your pytest.ini.
"""

import asyncio

import pytest

import database as db
from database import Connection
from database.testing import create_savepoint, rollback_to_savepoint, with_transaction


async def rename(code: str, name: str) -> None:
    """The code under test: it knows nothing of tests, and has a transaction of its own."""
    async with db.get_db_transaction() as conn:
        document = await db.get_document_by_code(code, conn=conn)
        if document is None:
            raise LookupError(code)
        await db.upsert_document(name, code, document["content"], conn=conn)


async def test_its_own_transaction_is_undone_as_well(db_transaction: Connection) -> None:
    await db.insert_document("Tea", "tea", "Green tea wants hot water.")
    await rename("tea", "Green tea")
    with pytest.raises(LookupError):
        await rename("coffee", "Coffee")
    assert await db_transaction.fetchval("SELECT name FROM document") == "Green tea"


async def test_concurrent_calls_as_well(db_transaction: Connection) -> None:
    assert await db.get_document_count() == 0  # of the test before, nothing is left
    await asyncio.gather(*(db.insert_document("n", f"code {number}", "text") for number in range(10)))
    assert await db.get_document_count() == 10


async def test_savepoints(db_transaction: Connection) -> None:
    await create_savepoint("before_changes")
    await db.insert_document("Tea", "tea", "text")
    await rollback_to_savepoint("before_changes")
    assert await db.get_document_count() == 0


class TestService:
    @with_transaction
    async def test_with_the_decorator(self, txn: Connection) -> None:
        await txn.execute("INSERT INTO document (code, name, content) VALUES ('tea', 'Tea', 'text')")
        assert await db.get_document_by_code("tea")
