"""A chatbot that looks things up and remembers: `python chatbot.py`, a question a line. Ask on after a restart."""

import asyncio
import sys
from typing import Any

import database as db

USER, THREAD = 1, "chatbot"

DOCUMENTS = {
    "chatbot/green-tea": ("Green tea", "Green tea wants water of 80 degrees, because boiling water makes it bitter."),
    "chatbot/black-tea": ("Black tea", "Black tea wants boiling water, and three to five minutes."),
    "chatbot/roses": ("Roses", "Roses are cut in spring, above an eye that looks outwards."),
}


def answer(question: str, sections: list[dict[str, Any]], history: list[dict[str, str]]) -> str:
    """The place of your model, which takes the same: what was said, what was found, what is asked."""
    if not sections:
        return "I have read nothing about that."
    known = {turn["content"] for turn in history if turn["role"] == "assistant"}
    said = f"{sections[0]['text']} ({sections[0]['code']})"
    return f"As I said: {said}" if said in known else said


async def look_up(question: str) -> list[dict[str, Any]]:
    return await db.search_sections(question, limit=3, where={"code": {"$startswith": "chatbot/"}})


async def reply(question: str) -> str:
    recent = await db.get_recent_chat_history(THREAD, limit=10, user_id=USER)
    found = await look_up(question)
    if not found and len(question.split()) <= 3:  # "And why?" is about what was asked before
        found = await look_up(" ".join(message["question"] for message in recent[:3]))
    said = answer(question, found, db.format_chat_history(recent, style="openai"))
    await db.save_chat_history(USER, THREAD, question, said, metadata={"found": [each["code"] for each in found]})
    return said


async def begin() -> str:
    await db.init_document_table()
    await db.init_chat_history_table()
    for code, (name, content) in DOCUMENTS.items():
        await db.upsert_document(name, code, content)
    messages = await db.get_recent_chat_history(THREAD, limit=1, user_id=USER)
    return f"Welcome back. You asked: {messages[0]['question']}" if messages else "Ask me about tea, or roses."


def read_question() -> str:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""


def main() -> None:
    with asyncio.Runner() as runner:
        try:
            print(runner.run(begin()), flush=True)
            while question := read_question():
                print(runner.run(reply(question)), flush=True)
        except KeyboardInterrupt:
            print()
        finally:
            runner.run(db.close_connection_pool())


main()
