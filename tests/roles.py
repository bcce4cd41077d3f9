"""Roles other than the superuser of the tests."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import database as db
from database.settings import Settings, configure


@asynccontextmanager
async def connected_as(role: str, settings: Settings) -> AsyncIterator[None]:
    """The package connects as the login role *role* in the block."""
    before = db.get_settings()
    dsn = settings.dsn.replace("postgres@", f"{role}@", 1)
    await db.close_connection_pool()
    configure(settings.model_copy(update={"database_url": dsn}))
    try:
        yield
    finally:
        await db.close_connection_pool(timeout=1)
        configure(before)


@asynccontextmanager
async def login_role(*, member_of: str | None = None) -> AsyncIterator[str]:
    """The name of a role that owns nothing; made, and dropped with all that it owns by then, by the default pool."""
    role = f"app_{uuid.uuid4().hex[:12]}"
    async with db.get_db_connection() as conn:
        await conn.execute(f"CREATE ROLE {role} LOGIN")
        if member_of is not None:
            await conn.execute(f"GRANT {member_of} TO {role}")
    try:
        yield role
    finally:
        async with db.get_db_connection() as conn:
            await conn.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
