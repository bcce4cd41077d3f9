"""
The demonstration: server, tables, ingestion, search, chat, health, and what took how long.

What it stores has codes that begin with demo/, and follows the folder from run to run; the chat is removed again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import embedded
from ..chat_history import (
    delete_thread_history,
    format_chat_history,
    get_recent_chat_history,
    init_chat_history_table,
    save_chat_history,
)
from ..connect_db import close_connection_pool, get_connection_pool, health_report
from ..document import get_list_of_documents, init_document_table, search_documents
from ..ids import uuid7
from ..ingestion import ingest_directory
from ..settings import get_settings
from .queries import derive_queries
from .terminal import Terminal, format_seconds
from .views import show_hit, show_ingestion

_PREFIX = "demo"
_USER = 0
_QUERIES, _HITS, _SEARCHED = 3, 2, 50
_TITLES = 5000  # documents whose titles are looked at for queries


class Stopwatch:
    """What took how many seconds, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, what: str) -> Iterator[None]:
        """Add the time of the block to *what*."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - began


async def run_demo(terminal: Terminal, folder: Path | None) -> int:
    """Show everything with the Markdown in *folder*, None for this project's own; the exit code."""
    watch = Stopwatch()
    report: dict[str, Any] = {"server": await _start_server(terminal, watch)}
    with watch.time("create the tables"):
        await init_document_table()
        await init_chat_history_table()
    report["ingestion"] = await _ingest(terminal, watch, folder)
    report["searches"] = await _search(terminal, watch)
    report["chat"] = await _chat(terminal, watch, report["searches"])
    report["health"] = await _ask_health(terminal, watch)
    report["server"]["still_running"] = await _stop_server(watch)
    report["seconds"] = watch.seconds
    _show_times(terminal, watch, report["server"])
    terminal.give(report)
    return 1 if report["ingestion"]["failed_count"] or report["health"]["status"] == "unhealthy" else 0


def find_own_documents() -> list[Path]:
    """This project's own Markdown: of the checkout that it runs from, else what was installed with it; may be empty."""
    package = Path(__file__).resolve().parent.parent
    root = package.parent
    project = root / "pyproject.toml"
    if project.is_file() and 'name = "pgdatabase"' in project.read_text(encoding="utf-8"):
        return [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]
    return sorted((package / "docs").rglob("*.md"))


@contextmanager
def _documents(folder: Path | None) -> Iterator[Path]:
    """*folder*, else a copy of our own documents: they lie in several places, and one ingestion is to mirror them."""
    if folder is not None:
        yield folder
        return
    files = find_own_documents()
    with tempfile.TemporaryDirectory(prefix="database-demo-") as directory:
        root = os.path.commonpath([file.parent for file in files])
        for file in files:
            copy = Path(directory, file.relative_to(root))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        yield Path(directory)


def _title(terminal: Terminal, text: str) -> None:
    terminal.show()
    terminal.show((text, "bold cyan"))


async def _start_server(terminal: Terminal, watch: Stopwatch) -> dict[str, Any]:
    settings = get_settings()
    is_embedded = not settings.names_a_server
    ran_before = is_embedded and (await embedded.status())["running"]
    with watch.time("join the server" if ran_before else "start the server" if is_embedded else "connect"):
        pool = await get_connection_pool()
        async with pool.acquire() as conn:
            version = await conn.fetchval("SELECT current_setting('server_version')")
    seconds = format_seconds(next(iter(watch.seconds.values())))
    server = {"embedded": is_embedded, "version": version, "url": pool.redacted_url, "data": None}
    terminal.show(("Server", "bold cyan"))
    if is_embedded:
        server["data"] = (await embedded.status())["directory"]
        how = "which was running already" if ran_before else f"started in {seconds}"
        terminal.show(f"embedded PostgreSQL {version}, {how}; its data lies in", indent=2)
        terminal.show(server["data"], indent=2)
    else:
        terminal.show(f"PostgreSQL {version}, configured by your settings, connected in {seconds}", indent=2)
        terminal.show(pool.redacted_url, indent=2)
    return server


async def _ingest(terminal: Terminal, watch: Stopwatch, folder: Path | None) -> dict[str, Any]:
    _title(terminal, f"Documents from {folder or 'the docs of this project'}")
    with _documents(folder) as directory, terminal.bar("ingesting") as move, watch.time("ingest the documents"):
        result = await ingest_directory(
            directory, _PREFIX, prune=True, progress=lambda now: move(now["done"], now["total"])
        )
    show_ingestion(terminal, result, indent=2)
    if not result["total"]:
        terminal.show("there is no Markdown (.md) in it", indent=2)
    return result


async def _search(terminal: Terminal, watch: Stopwatch) -> list[dict[str, Any]]:
    searches: list[dict[str, Any]] = []
    names = [row["name"] for row in await _demo_documents()]
    for query in derive_queries(names):
        began = time.perf_counter()
        rows = await search_documents(query, _SEARCHED, content=False)
        seconds = time.perf_counter() - began
        hits = [row for row in rows if row["code"].startswith(f"{_PREFIX}/")][:_HITS]
        if hits:
            searches.append({"query": query, "seconds": seconds, "results": hits})
            watch.seconds["search"] = watch.seconds.get("search", 0.0) + seconds
        if len(searches) == _QUERIES:
            break
    _title(terminal, "Search")
    if not searches:
        terminal.show("there is nothing to search for", indent=2)
    for search in searches:
        terminal.show_pair((search["query"], "bold"), (format_seconds(search["seconds"]), "dim"), indent=2)
        for number, row in enumerate(search["results"], 1):
            show_hit(terminal, number, row, indent=4, lines=2)
    return searches


async def _demo_documents() -> list[dict[str, Any]]:
    """The newest documents of the demo, without their text."""
    rows = await get_list_of_documents(_TITLES, content=False)
    return [row for row in rows if row["code"].startswith(f"{_PREFIX}/")]


async def _chat(terminal: Terminal, watch: Stopwatch, searches: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    thread = f"{_PREFIX}-{uuid7()}"
    turns = [
        (f"Where do I read about {search['query']}?", f'In "{hit["name"]}", {hit["code"]}.')
        for search in searches[:2]
        for hit in search["results"][:1]
    ] or [("Is anybody there?", "Yes: this was stored in PostgreSQL and read back.")]
    try:
        with watch.time("store and read a chat"):
            for question, answer in turns:
                await save_chat_history(_USER, thread, question, answer)
            chat = format_chat_history(await get_recent_chat_history(thread))
    finally:
        await delete_thread_history(thread)
    _title(terminal, "Chat, stored and read back")
    for message in chat:
        terminal.show_labelled((message["role"], "dim"), message["content"], width=7, indent=2)
    return chat


async def _ask_health(terminal: Terminal, watch: Stopwatch) -> dict[str, Any]:
    with watch.time("ask for the health"):
        report = await health_report()
    style = {"healthy": "green", "degraded": "yellow"}.get(report["status"], "bold red")
    _title(terminal, "Health")
    facts = [report["error"]] if report["error"] else [
        f"answers in {report['latency_ms']:.2f} ms",
        "read and write" if report["writable"] else "read only",
        f"{report['pool']['size']} of at most {report['pool']['max_size']} connections open",
    ]  # fmt: skip
    terminal.show((report["status"], style), ": ", ", ".join(facts), indent=2)
    return report


async def _stop_server(watch: Stopwatch) -> bool:
    """Leave the embedded server; True where it goes on, for others or because it is kept."""
    if get_settings().names_a_server:
        return True
    with watch.time("stop the server"):
        await close_connection_pool()
        await embedded.stop()
    return bool((await embedded.status())["running"])


def _show_times(terminal: Terminal, watch: Stopwatch, server: dict[str, Any]) -> None:
    _title(terminal, "What took how long")
    width = 40
    longest = max(watch.seconds.values())
    block = "\N{BOX DRAWINGS HEAVY HORIZONTAL}" if terminal.can_show("\N{BOX DRAWINGS HEAVY HORIZONTAL}") else "-"
    for what, seconds in watch.seconds.items():
        bar = block * max(1, round(width * seconds / longest))
        terminal.show(f"{what:<23}{format_seconds(seconds):>10}  ", (bar, "green"), indent=2)
    terminal.show((f"{'together':<23}{format_seconds(sum(watch.seconds.values())):>10}", "bold"), indent=2)
    if server["embedded"]:
        terminal.show()
        end = "The server goes on: others use it." if server["still_running"] else "The server has stopped."
        terminal.talk((end + " Its data stays; the next run finds it.", "dim"))
