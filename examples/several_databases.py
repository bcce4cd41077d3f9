"""Two databases from one process, a shop's and its archive: `python several_databases.py`. Nothing of it stays."""

import asyncio
from urllib.parse import urlsplit

import database as db

NAMES = ("shop", "archive")


async def make(name: str) -> None:
    """A database beside the one that is configured; this process knows it as *name* from now on."""
    pool = await db.get_connection_pool()
    url = pool.settings.dsn if pool.settings.names_a_server else await db.embedded.start()
    await db.execute_with_retry(f"DROP DATABASE IF EXISTS several_databases_{name} WITH (FORCE)")
    await db.execute_with_retry(f"CREATE DATABASE several_databases_{name}")
    # or, in the environment: SHOP_DATABASE_URL, ARCHIVE_DATABASE_URL
    db.configure(db.Settings(database_url=urlsplit(url)._replace(path=f"/several_databases_{name}").geturl()), name)
    async with db.get_db_connection(name) as conn:
        await db.init_document_table(conn=conn)


async def codes(name: str) -> list[str]:
    async with db.get_db_connection(name) as conn:
        return sorted(document["code"] for document in await db.get_list_of_documents(conn=conn))


async def move_to_archive(code: str) -> None:
    """The archive commits first: where the second commit fails, the document is in both, and never in none."""
    async with db.get_db_transaction("shop") as shop, db.get_db_transaction("archive") as archive:
        document = await db.get_document_by_code(code, conn=shop)
        if document is None:
            raise LookupError(code)
        await db.upsert_document(document["name"], code, document["content"], conn=archive)
        await db.delete_document(code, conn=shop)


async def show() -> None:
    async with db.get_db_transaction("shop") as conn:
        for year in (2019, 2024, 2025):
            await db.insert_document(f"Orders of {year}", f"orders/{year}", "Tea, roses.", conn=conn)
    await move_to_archive("orders/2019")

    for name, found in zip(NAMES, await asyncio.gather(*map(codes, NAMES)), strict=True):
        report = await db.health_report(name)
        print(f"{name:<8}{report['status']:<9}{', '.join(found)}")
    try:
        await move_to_archive("orders/1999")
    except LookupError as exc:
        print(f"there is no {exc}; both transactions are rolled back")


async def main() -> None:
    for name in NAMES:
        await make(name)
    try:
        await show()
    finally:
        for name in NAMES:
            await db.close_connection_pool(name)
            await db.execute_with_retry(f"DROP DATABASE several_databases_{name} WITH (FORCE)")
        await db.close_connection_pool()


asyncio.run(main())
