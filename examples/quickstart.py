"""Store, read, search, chat: `python quickstart.py`. Without any configuration it brings its own PostgreSQL."""

import asyncio

import database as db


async def main() -> None:
    await db.init_document_table()
    await db.upsert_document("Coroutines", "notes/async", "A coroutine waits without blocking the others.")
    await db.upsert_document("Generators", "notes/lazy", "A generator makes its values one at a time.")

    if document := await db.get_document_by_code("notes/async"):
        print(f"{document['name']}: {document['content']}")
    for found in await db.search_documents("what is blocking?"):
        print(f"{found['rank']:.3f} {found['code']}: {found['snippet']}")

    await db.init_chat_history_table()
    await db.save_chat_history(user_id=1, thread_id="quickstart", question="What waits?", answer="A coroutine.")
    for turn in db.format_chat_history(await db.get_recent_chat_history("quickstart", limit=1)):
        print(f"{turn['role']}: {turn['content']}")

    await db.close_connection_pool()


asyncio.run(main())
