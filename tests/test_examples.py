"""Every file in examples/ runs as its first line says, on a machine without any configuration."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
import pytest

from database.cli.examples import command_of

from .running import run_program
from .sshd import sshd

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a user who has configured nothing but where the embedded server has its data."""
    unbuffered = {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error"}
    return {**os.environ, **unbuffered, "DB_EMBEDDED_DIR": str(tmp_path / "server")}


@contextmanager
def uvicorn(application: str, environment: dict[str, str]) -> Iterator[httpx.Client]:
    """A client of `uvicorn <application>`, run in a process of its own on a free port."""
    command = [sys.executable, "-m", "uvicorn", application, "--app-dir", str(EXAMPLES), "--port", "0"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            told = []
            for line in process.stderr:
                told.append(line)
                if running := re.search(r"running on (http://\S+)", line):
                    break
            else:
                pytest.fail("".join(told))
            with httpx.Client(base_url=running[1], timeout=30) as client:
                yield client
        finally:
            process.terminate()
            process.stderr.read()  # a full pipe would keep it from ending
            process.wait(30)


def test_every_example_is_tested() -> None:
    """An example that no test runs is not there."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "batch_ingestion.py",
        "celery_worker.py",
        "chatbot.py",
        "dump_and_restore.py",
        "fastapi_app.py",
        "mock_rows.py",
        "query_log.py",
        "quickstart.py",
        "several_databases.py",
        "sync.py",
        "testing_modes.py",
        "transactions_in_tests.py",
    }


def start(
    environment: dict[str, str], example: str, *arguments: str, **options: Any
) -> subprocess.CompletedProcess[str]:
    """An example that runs to its end, in a directory that is not the examples'."""
    command = [sys.executable, str(EXAMPLES / example), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False, **options)


def run(environment: dict[str, str], example: str, *arguments: str) -> str:
    """What an example prints that must end well."""
    finished = start(environment, example, *arguments)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_mock_rows(bare: dict[str, str]) -> None:
    """Every line says what the one before has promised, and nothing stays."""
    printed = run(bare, "mock_rows.py")
    assert re.search(r"^one row: Jane, \d\d+, \S+@\S+$", printed, re.MULTILINE)
    assert "the same seed, the same row: True" in printed
    assert "a user with posts: {'users': 1, 'posts': 3}" in printed
    assert "stored: 10000 posts of 1 user\nleft: False\n" in printed


def test_transactions_in_tests(bare: dict[str, str], tmp_path: Path) -> None:
    """As a user's tests: in a directory without any configuration, and without a warning."""
    example = EXAMPLES / "transactions_in_tests.py"
    shutil.copy(example, tmp_path)
    command = [*command_of(example)[:-1], example.name]
    done = subprocess.run(command, cwd=tmp_path, env=bare, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 passed in" in done.stdout


def test_testing_modes(bare: dict[str, str]) -> None:
    """Mock stores nothing, end to end cleans up, production leaves what it did; and so when it is run again."""
    for _ in range(2):
        assert run(bare, "testing_modes.py").splitlines() == [
            "mock: 6 projects, five of them made up",
            "after mock: 0",
            "e2e: 1 project; tests that run: 1",
            "after e2e: 0",
            "production: 1 project",
            "after production: 1",
        ]


def test_quickstart_is_the_program_of_the_readme() -> None:
    """What the README shows is what the test below runs."""
    program = (EXAMPLES / "quickstart.py").read_text().partition("\n\n")[2]
    assert program in (EXAMPLES.parent / "README.md").read_text()


def test_quickstart(bare: dict[str, str]) -> None:
    """It reads what it stored, finds it and ends well; and so it does when it is run again."""
    for _ in range(2):
        read, found, question, answer = run(bare, "quickstart.py").splitlines()
        assert read == "Coroutines: A coroutine waits without blocking the others."
        assert re.fullmatch(r"0\.\d+ notes/async: .*waits without <mark>blocking</mark> the others.*", found)
        assert (question, answer) == ("human: What waits?", "ai: A coroutine.")


def test_dump_and_restore(bare: dict[str, str]) -> None:
    """What was dropped is back; what is not meant is refused; nothing of it stays."""
    for _ in range(2):
        done = run(bare, "dump_and_restore.py")
        dumped, refused, rows = done.splitlines()
        assert dumped.startswith("dumped 1 table, ") and rows == "[{'name': 'green'}]"
        assert refused.startswith("refused: ") and "confirm says 'production'" in refused


def test_query_log(bare: dict[str, str], tmp_path: Path) -> None:
    """It tells that calls share statements, shows the slow one with its plan, and leaves nothing."""
    printed = run(bare, "query_log.py")
    found = re.search(r"^(\d+) calls went in (\d+) statements$", printed, re.MULTILINE)
    assert found and int(found[1]) >= 200 and int(found[2]) < int(found[1]) - 100
    assert "slow statement" in printed and "    Aggregate  (cost=" in printed
    assert "find_tea" in printed
    count = """
        import asyncio
        import database as db

        async def main():
            print(await db.get_document_count())
            await db.close_connection_pool()

        asyncio.run(main())
    """
    assert run_program(dedent(count), tmp_path, **bare).stdout == "0\n"


def test_batch_ingestion(bare: dict[str, str], tmp_path: Path) -> None:
    """It says what became of each file, and its exit code tells a scheduler of failures."""
    for verdict, other in (("inserted", "unchanged"), ("unchanged", "inserted")):
        printed = run(bare, "batch_ingestion.py")
        assert re.search(rf"^ +3 of 3 files$.*^{verdict} +3$", printed, re.MULTILINE | re.DOTALL)
        assert re.search(rf"^{other} +0$", printed, re.MULTILINE)

    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "good.md").write_text("Tea")
    (tmp_path / "notes" / "bad.md").write_bytes(b"caf\xe9")
    refused = start(bare, "batch_ingestion.py", str(tmp_path / "notes"))
    assert refused.returncode == 1, refused.stderr
    assert re.search(r"^inserted +1$.*^failed +1 ", refused.stdout, re.MULTILINE | re.DOTALL)
    assert re.search(r"^failed: .*bad\.md: not UTF-8", refused.stderr, re.MULTILINE)

    shutil.rmtree(tmp_path / "notes")
    nobody = {"DATABASE_URL": "postgresql://a@127.0.0.1:1/x", "DB_CONNECTION_TIMEOUT": "0.5"}
    for environment, why in ((bare, "there is no such directory"), (bare | nobody, "is PostgreSQL running there")):
        stopped = start(environment, "batch_ingestion.py", str(tmp_path / "notes"))
        assert stopped.returncode == 2 and re.fullmatch(f"stopped: .*{why}.*", stopped.stderr.splitlines()[-1])


def test_several_databases(bare: dict[str, str]) -> None:
    """What was moved is in the other one, and nothing stays."""
    for _ in range(2):
        shop, archive, refused = run(bare, "several_databases.py").splitlines()
        assert shop.split() == ["shop", "healthy", "orders/2024,", "orders/2025"]
        assert archive.split() == ["archive", "healthy", "orders/2019"]
        assert refused == "there is no orders/1999; both transactions are rolled back"


def test_sync(bare: dict[str, str], tmp_path: Path) -> None:
    """Over a real ssh, the other machine being this one."""
    with sshd(tmp_path / "ssh") as there:
        for _ in range(2):
            printed = run(bare, "sync.py", there.remote, *there.options)
            fetched, rows = printed.splitlines()
            assert fetched == f"fetched from {there.remote} into sync_example_here"
            assert rows == "[{'name': 'black'}, {'name': 'green'}]"


def test_sync_where_nobody_answers(bare: dict[str, str]) -> None:
    """It says what is missing, and how to get it."""
    refused = start(bare, "sync.py", "me@127.0.0.1", "-p", "1")
    assert refused.returncode == 1 and refused.stdout == ""
    assert "ssh" in refused.stderr and "apt-get install openssh-server\n  ssh-copy-id me@127.0.0.1" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_chatbot(bare: dict[str, str]) -> None:
    """It answers from its documents, knows what a short question is about, and remembers over a restart."""

    def talk(*questions: str) -> list[str]:
        said = start(bare, "chatbot.py", input="\n".join(questions))
        assert said.returncode == 0, said.stderr
        return said.stdout.splitlines()

    green = "Green tea wants water of 80 degrees, because boiling water makes it bitter. (chatbot/green-tea)"
    assert talk("How hot for green tea?", "And why?", "Who won the match?") == [
        "Ask me about tea, or roses.", green, f"As I said: {green}", "I have read nothing about that.",
    ]  # fmt: skip
    assert talk() == ["Welcome back. You asked: Who won the match?"]
    assert talk("When are roses cut?") == [
        "Welcome back. You asked: Who won the match?",
        "Roses are cut in spring, above an eye that looks outwards. (chatbot/roses)",
    ]


def test_chatbot_is_left_by_ctrl_c(bare: dict[str, str]) -> None:
    """Without a word."""
    command = [sys.executable, str(EXAMPLES / "chatbot.py")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=bare, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "Ask me about tea, or roses.\n"
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (0, "")


def test_celery_worker(bare: dict[str, str]) -> None:
    """A real worker with two processes; of the task that was tried three times, the last attempt is there."""
    warned = {"PYTHONWARNINGS": "error,ignore:You're running the worker with superuser"}
    for _ in range(2):
        queued, *stored = run(bare | warned, "celery_worker.py").splitlines()
        assert queued == "5 tasks wait in the queue"
        pattern = r"(celery_worker/(?:\d|retried, 3)) +stored at (once|attempt 3), by process \d+"
        found = [re.fullmatch(pattern, line) for line in stored]
        assert [each and each[2] for each in found] == ["once"] * 4 + ["attempt 3"]


def test_fastapi_app(bare: dict[str, str]) -> None:
    """Its documents, search, chat, transaction and health endpoints do what they say, over HTTP."""
    with uvicorn("fastapi_app:app", bare) as client:
        text = {"name": "Coroutines", "content": "A coroutine waits without blocking.", "metadata": {"by": "me"}}
        assert client.put("/documents/notes/async", json=text).json()["status"] == "inserted"
        assert client.put("/documents/notes/async", json=text).json()["status"] == "unchanged"
        assert client.get("/documents/notes/async").json() | text == client.get("/documents/notes/async").json()
        assert client.get("/documents/nothing").status_code == 404

        (found,) = client.get("/search", params={"q": "what does a coroutine do?"}).json()
        assert found["code"] == "notes/async"
        assert client.get("/search", params={"q": "x", "limit": 0}).status_code == 422

        asked = client.post("/threads/t1", json={"user_id": 1, "question": "What is blocking?"})
        assert asked.status_code == 201
        question, answer = client.get("/threads/t1").json()
        assert question == {"role": "human", "content": "What is blocking?"}
        assert answer == {"role": "ai", "content": asked.json()["answer"]}
        assert "<mark>blocking</mark>" in answer["content"]

        moved = client.post("/move", params={"source": "notes/async", "target": "notes/coroutines"})
        assert moved.status_code == 204
        assert client.get("/documents/notes/async").status_code == 404
        assert client.get("/documents/notes/coroutines").json()["metadata"] == {"by": "me"}
        assert client.post("/move", params={"source": "nothing", "target": "x"}).status_code == 404
        onto_itself = {"source": "notes/coroutines", "target": "notes/coroutines"}
        assert client.post("/move", params=onto_itself).status_code == 204
        assert client.get("/documents/notes/coroutines").status_code == 200
        assert client.put("/documents/x", json={"name": "a\0", "content": ""}).status_code == 422

        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 200
        health = client.get("/health").json()
        assert (health["status"], health["embedded"]) == ("healthy", True)
        assert client.get("/openapi.json").status_code == 200
