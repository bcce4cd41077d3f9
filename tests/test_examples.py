"""Every file in examples/ runs as its first line says, on a machine without any configuration."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

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
        "dump_and_restore.py",
        "fastapi_app.py",
        "mock_rows.py",
        "query_log.py",
        "quickstart.py",
        "testing_modes.py",
        "transactions_in_tests.py",
    }


def run(bare: dict[str, str], *command: str) -> str:
    """What a program prints that must end well, in a directory that is not the examples'."""
    finished = subprocess.run(
        [sys.executable, *command], env=bare, capture_output=True, text=True, timeout=100, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_mock_rows(bare: dict[str, str]) -> None:
    """Every line says what the one before has promised, and nothing stays."""
    printed = run(bare, str(EXAMPLES / "mock_rows.py"))
    assert re.search(r"^one row: Jane, \d\d+, \S+@\S+$", printed, re.MULTILINE)
    assert "the same seed, the same row: True" in printed
    assert "a user with posts: {'users': 1, 'posts': 3}" in printed
    assert "stored: 10000 posts of 1 user\nleft: False\n" in printed


def test_transactions_in_tests(bare: dict[str, str]) -> None:
    """As a user's tests: without any configuration but that of pytest-asyncio."""
    options = ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function", "-p", "no:cacheprovider"]
    assert "4 passed" in run(bare, "-m", "pytest", *options, str(EXAMPLES / "transactions_in_tests.py"))


def test_testing_modes(bare: dict[str, str]) -> None:
    """Mock stores nothing, end to end cleans up, production leaves what it did; and so when it is run again."""
    for _ in range(2):
        assert run(bare, str(EXAMPLES / "testing_modes.py")).splitlines() == [
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
        command = [sys.executable, str(EXAMPLES / "quickstart.py")]
        run = subprocess.run(command, env=bare, capture_output=True, text=True, timeout=60, check=False)
        assert run.returncode == 0, run.stderr
        read, found, question, answer = run.stdout.splitlines()
        assert read == "Coroutines: A coroutine waits without blocking the others."
        assert re.fullmatch(r"0\.\d+ notes/async: .*waits without <mark>blocking</mark> the others.*", found)
        assert (question, answer) == ("human: What waits?", "ai: A coroutine.")


def test_dump_and_restore(bare: dict[str, str]) -> None:
    """What was dropped is back; what is not meant is refused; nothing of it stays."""
    for _ in range(2):
        done = run_example("dump_and_restore.py", bare)
        dumped, refused, rows = done.splitlines()
        assert dumped.startswith("dumped 1 table, ") and rows == "[{'name': 'green'}]"
        assert refused.startswith("refused: ") and "confirm says 'production'" in refused


def test_query_log(bare: dict[str, str]) -> None:
    """It tells that calls share statements, and shows the slow one with its plan."""
    printed = run_example("query_log.py", bare)
    found = re.search(r"^(\d+) calls went in (\d+) statements$", printed, re.MULTILINE)
    assert found and int(found[1]) >= 200 and int(found[2]) < int(found[1]) - 100
    assert "slow ones" in printed and "    Aggregate  (cost=" in printed
    assert "find_tea" in printed


def run_example(name: str, environment: dict[str, str]) -> str:
    """What it prints."""
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
