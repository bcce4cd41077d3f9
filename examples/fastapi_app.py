"""
Documents, search and chat over HTTP: `uvicorn fastapi_app:app`, then open http://127.0.0.1:8000/docs.

Needs `pip install 'pgdatabase[fastapi]' uvicorn`. Without DATABASE_URL it brings its own PostgreSQL.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel

import database as db
from database.contrib.fastapi import TransactionDep, database_lifespan, health_router, install_error_handlers


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with database_lifespan():
        await db.init_document_table()
        await db.init_chat_history_table()
        yield


app = FastAPI(title="Documents and chat", lifespan=lifespan)
app.include_router(health_router())
install_error_handlers(app)


class Text(BaseModel):
    name: str
    content: str
    metadata: dict[str, Any] = {}


class Question(BaseModel):
    user_id: int
    question: str


@app.put("/documents/{code:path}")
async def put_document(code: str, text: Text) -> dict[str, Any]:
    return await db.upsert_document(text.name, code, text.content, metadata=text.metadata)


@app.get("/documents/{code:path}")
async def get_document(code: str) -> dict[str, Any]:
    document = await db.get_document_by_code(code)
    if document is None:
        raise HTTPException(404, "There is no such document.")
    return document


@app.get("/search")
async def search(q: str, limit: Annotated[int, Query(ge=1, le=100)] = 10) -> list[dict[str, Any]]:
    return await db.search_documents(q, limit, content=False)


@app.post("/threads/{thread_id}", status_code=201)
async def ask(thread_id: str, asked: Question) -> dict[str, Any]:
    found = await db.search_documents(asked.question, 1, content=False)
    answer = found[0]["snippet"] if found else "I do not know."
    message_id = await db.save_chat_history(asked.user_id, thread_id, asked.question, answer)
    return {"id": message_id, "answer": answer}


@app.get("/threads/{thread_id}")
async def get_thread(thread_id: str) -> list[dict[str, str]]:
    return db.format_chat_history(await db.get_recent_chat_history(thread_id, limit=50))


@app.post("/move", status_code=204)
async def move_document(source: str, target: str, conn: TransactionDep) -> None:
    """Both steps or none, and done when the response is there."""
    document = await db.get_document_by_code(source, conn=conn)
    if document is None:
        raise HTTPException(404, "There is no such document.")
    if source != target:
        kept = {key: document[key] for key in ("name", "content", "metadata", "language")}
        await db.upsert_document(code=target, **kept, conn=conn)
        await db.delete_document(source, conn=conn)
