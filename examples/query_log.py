"""What statements took, and which are slow: `python query_log.py`."""

import asyncio

import database as db


@db.time_query
async def find_tea() -> list[str]:
    where = {"code": {"$startswith": "query_log/"}}
    return [found["code"] for found in await db.search_documents("green tea", 3, where=where)]


async def main() -> None:
    db.configure(db.Settings(query_log="on", slow_query_ms=200))
    await db.init_document_table()
    codes = [f"query_log/{n}" for n in range(100)]
    await asyncio.gather(*(db.upsert_document("Tea", code, f"Green tea, {code}.") for code in codes))
    await asyncio.gather(*(db.get_document_by_code(code) for code in codes))
    print(await find_tea())
    async with db.get_db_connection() as conn:
        await conn.fetch("SELECT count(*) FROM document, pg_sleep($1) WHERE code LIKE 'query_log/%'", 0.25)
    await asyncio.sleep(0.5)  # the plan of the slow one is asked for in the background

    stats = db.get_query_stats()
    print(f"{stats['total']['calls']} calls went in {stats['total']['count']} statements")
    db.print_query_summary(limit=5)
    await asyncio.gather(*(db.delete_document(code) for code in codes))
    await db.close_connection_pool()


asyncio.run(main())
