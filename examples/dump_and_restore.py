"""A dump, and the way back: `python dump_and_restore.py`. Everything happens in a database of its own."""

import asyncio
import tempfile
from urllib.parse import urlsplit, urlunsplit

import database as db
from database.settings import configure, get_settings


async def main() -> None:
    # a database beside the one that is configured, so that nothing of yours is touched
    pool = await db.get_connection_pool()
    url = urlsplit(pool.settings.dsn if pool.settings.names_a_server else await db.embedded.start())
    example = urlunsplit(url._replace(path="/dump_and_restore_example"))
    configure(get_settings().model_copy(update={"database_url": example}), "example")
    await db.execute_with_retry("DROP DATABASE IF EXISTS dump_and_restore_example WITH (FORCE)")
    await db.execute_with_retry("CREATE DATABASE dump_and_restore_example")

    try:
        await dump_and_restore()
    finally:
        await db.close_connection_pool("example")
        await db.execute_with_retry("DROP DATABASE dump_and_restore_example WITH (FORCE)")
        await db.close_connection_pool()


async def dump_and_restore() -> None:
    await db.execute_with_retry("CREATE TABLE tea AS SELECT 'green' AS name", name="example")
    with tempfile.TemporaryDirectory() as directory:
        dump = await db.dump_database(directory=directory, name="example")
        print(f"dumped {dump['tables']} table, {dump['bytes']:,} bytes, sha256 {dump['sha256'][:12]}…")

        await db.execute_with_retry("DROP TABLE tea", name="example")
        try:
            await db.restore_database(dump["path"], confirm="production", name="example")
        except db.BackupError as exc:
            print(f"refused: {exc}")
        await db.restore_database(dump["path"], confirm="dump_and_restore_example", name="example", clean=True)
    print(await db.execute_with_retry("SELECT * FROM tea", name="example"))

    # from another machine: await db.sync_from("me@laptop", confirm="…", clean=True, remote_directory="project")


asyncio.run(main())
