"""The demonstration: it shows everything, mirrors the folder, and touches nothing else."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from pathlib import Path

import pytest

import database as db
from database import embedded
from database.cli.queries import derive_queries
from database.settings import Settings

from .program import run, run_in_terminal, start, write_files

TITLES = ("Connection Pool", "Static Files", "Path Parameters", "Static Files in Production", "Connection Strings")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a few documents."""
    files = {f"{title.lower().replace(' ', '-')}.md": f"# {title}\n\nAbout {title}.\n" for title in TITLES}
    return write_files(tmp_path / "folder", dict(files))


async def test_it_shows_everything(empty_database: Settings, folder: Path) -> None:
    """Where the data lies, what went in, three searches with highlights, the chat, the health, the times."""
    result = run("demo", folder, settings=empty_database)
    assert result.code == 0, result
    for part in ("Server", f"Documents from {folder}", "Search", "Chat", "Health", "What took how long"):
        assert f"{part}" in result.out
    assert "configured by your settings" in result.out and "5 inserted" in result.out
    assert "*Connection*" in result.out and "demo/connection-pool" in result.out
    assert "\n  human  Where do I read about " in result.out
    assert "healthy: answers in " in result.out
    assert "ingest the documents" in result.out
    assert result.out.count("\n") < 65


async def test_the_second_run_says_that_nothing_was_written(database: Settings, folder: Path) -> None:
    """Unchanged documents are told first thing; a file that is gone goes from the database, too."""
    run("demo", folder, settings=database)
    assert "nothing to do: all 5 unchanged" in run("demo", folder, settings=database).out
    (folder / "static-files.md").unlink()
    assert run("demo", folder, "--json", settings=database).json["ingestion"]["deleted"] == 1


async def test_it_leaves_what_is_not_its_own_alone(database: Settings, folder: Path) -> None:
    """Documents of others stay and are not shown, threads of others stay, and its own chat is gone."""
    await db.insert_document("Connection Pool", "mine", "connection pool, static files")
    await db.save_chat_history(0, "mine", "question", "answer")
    report = run("demo", folder, "--json", settings=database).json
    assert all(hit["code"].startswith("demo/") for search in report["searches"] for hit in search["results"])
    assert await db.get_document_by_code("mine") is not None
    assert [thread["thread_id"] for thread in await db.get_user_threads(0)] == ["mine"]


async def test_as_json_it_is_one_document(database: Settings, folder: Path) -> None:
    """With everything that people see."""
    report = run("demo", folder, "--json", settings=database).json
    assert report["server"]["embedded"] is False and report["ingestion"]["inserted"] == 5
    assert len(report["searches"]) == 3 and "<mark>" in report["searches"][0]["results"][0]["snippet"]
    assert [message["role"] for message in report["chat"]] == ["human", "ai"] * 2
    assert report["health"]["status"] == "healthy" and report["seconds"]["search"] > 0


async def test_files_that_fail_are_listed(database: Settings, folder: Path) -> None:
    """The first five, with reasons; the rest is shown all the same, and the exit code is 1."""
    write_files(folder, {f"bad{number}.md": b"\xff" for number in range(6)})
    result = run("demo", folder, settings=database)
    assert result.code == 1
    assert result.err.count("failed: ") == 5 and "and 1 more" in result.err
    assert "What took how long" in result.out


async def test_an_empty_folder_and_an_odd_one(database: Settings, tmp_path: Path) -> None:
    """Nothing to search for is said, not raised; titles without words are no trouble."""
    empty = run("demo", write_files(tmp_path / "empty", {"x.txt": "x"}), settings=database)
    assert empty.code == 0 and "there is no Markdown (.md) in it" in empty.out, empty
    odd = run("demo", write_files(tmp_path / "odd", {"1.md": "# 1 %\n", "日本.md": "# 日本語\n"}), settings=database)
    assert odd.code == 0, odd


async def test_in_a_terminal_it_fits(database: Settings, folder: Path) -> None:
    """80 columns, calm: no line is longer; in a dumb one nothing but text."""
    dumb = run_in_terminal("demo", folder, settings=database, variables={"TERM": "dumb"})
    assert dumb.code == 0 and "\x1b" not in dumb.out
    assert max(map(len, dumb.out.splitlines())) <= 80
    ascii_only = run(
        "demo", folder, settings=database, variables={"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    )
    assert ascii_only.code == 0 and ascii_only.out.isascii() and "-----" in ascii_only.out


def test_without_documents_of_its_own_it_asks_for_a_folder(tmp_path: Path) -> None:
    """Installed without the project's docs it says what to do, with the exit code of wrong use."""
    package = Path(db.__file__).parent
    shutil.copytree(package, tmp_path / "site" / "database", ignore=shutil.ignore_patterns("__pycache__", "docs"))
    result = run("demo", variables={"PYTHONPATH": str(tmp_path / "site")})
    assert result.code == 2
    assert "name a folder with Markdown" in " ".join(result.err.replace("│", " ").split())


def test_alone_it_brings_its_server_and_takes_it_away(tmp_path: Path, folder: Path) -> None:
    """Without any configuration: the embedded server is started, named with its data, and stopped."""
    directory = tmp_path / "server"
    result = run("demo", folder, variables={"DB_EMBEDDED_DIR": str(directory)})
    assert result.code == 0, result
    assert "embedded PostgreSQL" in result.out and str(directory) in result.out and "stop the server" in result.out
    assert result.err.splitlines() == ["The server has stopped. Its data stays; the next run finds it."]
    assert not asyncio.run(embedded.status(directory))["running"]


@pytest.mark.parametrize("how", ["Ctrl-C", "closed pipe"])
async def test_broken_off_it_leaves_no_server(how: str, tmp_path: Path) -> None:
    """In the middle of the ingestion, or when nobody reads any more: no traceback, and the server stops."""
    many = 1000 if how == "Ctrl-C" else 1
    files = {f"{number}.md": f"# T {number}\n" + "word " * 2000 for number in range(many)}
    folder = write_files(tmp_path / "many", dict(files))
    directory = tmp_path / "server"
    process = start("demo", folder, variables={"DB_EMBEDDED_DIR": str(directory)})
    assert process.stdout is not None and process.stderr is not None
    while b"Documents from" not in await asyncio.to_thread(process.stdout.readline):
        assert process.poll() is None
    if how == "Ctrl-C":
        process.send_signal(signal.SIGINT)
    else:
        process.stdout.close()
    err = await asyncio.to_thread(process.stderr.read)
    code = await asyncio.to_thread(process.wait, 60)
    assert (code, err.decode()) == ((130, "error: interrupted\n") if how == "Ctrl-C" else (1, ""))
    deadline = time.monotonic() + 30
    while (await embedded.status(directory))["running"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    process.stderr.close()
    process.stdout.close()


def test_queries_come_from_titles() -> None:
    """Whole titles of two words first; as words, as a phrase, with an exclusion; then single words."""
    queries = list(derive_queries([*TITLES, "Ab", "The and of"]))
    assert queries[:4] == ["static files", '"connection pool"', "path parameters -static", "path parameters"]
    assert list(derive_queries([])) == [] and list(derive_queries(["", "% 1"])) == []
    assert list(derive_queries(["日本語"])) == ["日本語"]


def test_words_of_nearly_every_title_are_no_topic() -> None:
    """In a folder about one thing, that thing is not what to search for."""
    titles = [f"Acme Widget {word}" for word in ("assembly", "repair", "painting", "shipping", "sale", "return")]
    topics = [query for query in derive_queries(titles) if " " in query]
    assert topics == []
    assert next(derive_queries(titles)) in {"acme", "widget"}
