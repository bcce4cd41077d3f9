"""Tasks in a Celery worker, each in a transaction: `python celery_worker.py`. Needs `pgdatabase[celery]`."""

import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from celery import Celery

import database as db
from database import Connection, repository
from database.contrib.celery import with_db_connection

# a broker of files, which needs no server; yours is redis://… or amqp://…
if "EXAMPLE_BROKER" not in os.environ:
    os.environ["EXAMPLE_BROKER"] = tempfile.mkdtemp(prefix="celery-")  # the worker gets it from here
BROKER = os.environ["EXAMPLE_BROKER"]
app = Celery("celery_worker", broker="filesystem://localhost")
app.conf.broker_transport_options = {
    "data_folder_in": BROKER,
    "data_folder_out": BROKER,
    "control_folder": f"{BROKER}/control",
}


@app.task
@with_db_connection
async def store(code: str, *, conn: Connection) -> None:
    await db.insert_document("stored at once", code, "Tea.", metadata={"process": os.getpid()}, conn=conn)


@app.task(bind=True)
@with_db_connection
async def store_at_third_attempt(self: Any, code: str, *, conn: Connection) -> None:
    attempt = self.request.retries + 1
    name = f"stored at attempt {attempt}"
    await db.insert_document(name, f"{code}, {attempt}", "Tea.", metadata={"process": os.getpid()}, conn=conn)
    if attempt < 3:
        raise self.retry(countdown=0)  # and what this attempt has stored is not there


async def wait_until_stored(number: int, worker: asyncio.subprocess.Process) -> list[dict[str, Any]]:
    while True:
        stored = await repository.fetch("document", {"code": {"$startswith": "celery_worker/"}}, order_by="code")
        if len(stored) >= number:
            return stored
        if worker.returncode is not None:
            sys.exit("the worker has ended; what it said stands above")
        await asyncio.sleep(0.1)


async def main() -> None:
    await db.init_document_table()
    await repository.delete("document", {"code": {"$startswith": "celery_worker/"}})
    for number in range(4):
        store.delay(f"celery_worker/{number}")
    store_at_third_attempt.delay("celery_worker/retried")
    print("5 tasks wait in the queue")

    # as in a shell: celery -A celery_worker worker --concurrency=2
    command = [sys.executable, "-m", "celery", "-A", "celery_worker", "worker", "--concurrency=2"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "DB_MIN_CONNECTIONS": "1"}
    worker = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(60):
            stored = await wait_until_stored(5, worker)
    finally:
        if worker.returncode is None:
            worker.terminate()
        await worker.wait()

    for document in stored:
        print(f"{document['code']:<25} {document['name']}, by process {document['metadata']['process']}")
        await db.delete_document(document["code"])
    await db.close_connection_pool()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    finally:
        shutil.rmtree(BROKER)
