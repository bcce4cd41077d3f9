"""
The documentation tells the truth: its code runs, its output is what comes out, its links lead somewhere.

The blocks of a page run in order, on a database of their own. What follows them as a ```text or ```json block is what
they print; ids, times, paths, addresses and decimal numbers may differ, and … stands for anything.
"""

from __future__ import annotations

import ast
import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
from typer.main import get_command

import database as db
from database import embedded, registry
from database.cli.commands import app
from database.settings import Settings, configure

from .extensions import skip_without_pgvector

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    if path.is_file()
}

_FENCE = re.compile(r"^ *```(\w*)$")
_NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
_FOR_THE_READERS_SHELL = ("export ", "make ", "pip install ", "uvicorn ", "#")


class Block(NamedTuple):
    """A block of code and, if it is there, the block behind it that shows what it prints."""

    line: int
    language: str
    text: str
    not_run: str | None
    output: str | None


def read_blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page that are not output."""
    fenced: list[tuple[int, str, str, str]] = []  # line, language, what stands between it and the one before, text
    language: str | None = None
    between: list[str] = []
    code: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if language is None and fence:
            language = fence[1]
        elif language is not None and line.strip() == "```":
            fenced.append((number - len(code), language, "\n".join(between).strip(), "\n".join(code)))
            language, between, code = None, [], []
        else:
            (between if language is None else code).append(line)
    for position, (line_number, kind, before, block) in enumerate(fenced):
        if kind in ("python", "bash", "sql"):
            mark = _NOT_RUN.fullmatch(before.rpartition("\n")[2])
            following = fenced[position + 1] if position + 1 < len(fenced) else None
            shown = following is not None and following[1] in ("text", "json") and not following[2]
            output = following[3] if following is not None and shown else None
            yield Block(line_number, kind, block, mark[1] if mark else None, output)


def is_program(block: Block) -> bool:
    """True where a Python block is to be saved and run, not typed in behind the others."""
    return "asyncio.run(" in block.text


def without_chance(text: str) -> str:
    """*text* without what differs from run to run and from machine to machine."""
    for pattern, constant in (
        (r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S*\d", "TIME"),
        (r"postgresql://[^\s\"',;]+", "URL"),
        (r"(?<![\w*.])(?:/[\w.%*-]+)+", "PATH"),
        (r"\bpid +\d+", "pid 0"),
        (r"\b\d+(?:\.\d+)+ (?:ms|s)\b", "0 s"),
        (r"\b\d+\.\d+ \(\w+ \d[^)]*\)", "0.0"),  # a packager's version
        (r"\b\d+(?:\.\d+)+(?:e-\d+)?", "0.0"),
    ):
        text = re.sub(pattern, constant, text)
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def is_as_shown(shown: str, printed: str) -> bool:
    """True where *printed* is what a page has *shown*."""
    pattern = re.escape(without_chance(shown)).replace("\\\n…\\\n", r"\n(?:.*\n)*?").replace("…", ".*?")
    return re.fullmatch(pattern, without_chance(printed)) is not None


def check_output(page: str, block: Block, printed: str) -> None:
    if block.output is not None and not is_as_shown(block.output, printed):
        pytest.fail(f"{page}:{block.line} shows\n{block.output}\nand prints\n{printed}", pytrace=False)


def run_program(arguments: list[str], directory: Path) -> str:
    """What a program prints that must end well."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONWARNINGS": "error",
    }
    run = subprocess.run(
        arguments, cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, f"{' '.join(arguments)}\n{run.stdout}\n{run.stderr}"
    return run.stdout


async def run_python(page: str, block: Block, namespace: dict[str, Any]) -> str:
    """What a block prints that may `await` at its top level."""
    source = "\n" * (block.line - 1) + block.text  # so that a traceback names the line of the page
    code = compile(source, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    printed = io.StringIO()
    with redirect_stdout(printed):
        waiting = eval(code, namespace)
        if inspect.iscoroutine(waiting):
            await waiting
    return printed.getvalue()


async def run_sql(block: Block) -> str:
    """The rows that the statements of a block return, one a line."""
    lines = []
    async with db.get_db_connection() as conn:
        for statement in re.split(r";\s*$", block.text, flags=re.MULTILINE):
            if statement.strip():
                lines += [" | ".join(map(str, row)) for row in await conn.fetch(statement)]
    return "\n".join(lines)


async def run_block(page: str, block: Block, namespace: dict[str, Any], directory: Path) -> str:
    """What a block prints; *namespace* holds what the earlier ones have defined."""
    if block.language == "sql":
        return await run_sql(block)
    if block.language == "python" and not is_program(block):
        return await run_python(page, block, namespace)
    if block.language == "python":
        (directory / "program.py").write_text(block.text, encoding="utf-8")
        return run_program([sys.executable, "program.py"], directory)
    if "python -m database" not in block.text and "python -m pytest -q" not in block.text:
        return ""
    lines = [line for line in block.text.splitlines() if not line.startswith(_FOR_THE_READERS_SHELL)]
    return run_program(["bash", "-euo", "pipefail", "-c", "\n".join(lines)], directory)


@pytest.fixture
async def reader(_no_settings_from_outside: None, database: Settings, tmp_path: Path) -> AsyncIterator[Path]:
    """The directory of somebody who follows a page: DATABASE_URL is set, and an embedded server would be their own."""
    configure(None)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    server = tmp_path / "server"
    settings = {
        "DATABASE_URL": database.dsn,
        "REPORTING_DATABASE_URL": database.dsn,
        "DB_MIN_CONNECTIONS": "0",
        "DB_EMBEDDED_DIR": str(server),
        "HOME": str(tmp_path),
    }
    with mock.patch.dict(os.environ, settings), mock.patch.object(registry, "_callbacks", {}):
        yield tmp_path
        await db.close_connection_pool(timeout=1)
        await embedded.shut_down(server, force=True)


@pytest.mark.parametrize("page", PAGES)
async def test_the_code_of_a_page_runs_and_prints_what_the_page_shows(page: str, reader: Path) -> None:
    """Whoever follows a page from its top gets what it promises."""
    text = PAGES[page].read_text(encoding="utf-8")
    if "embed_missing(" in text:
        await skip_without_pgvector()
    namespace: dict[str, Any] = {"__name__": Path(page).stem}
    for block in read_blocks(text):
        if block.not_run is None:
            check_output(page, block, await run_block(page, block, namespace, reader))


def test_a_first_test_of_ones_own_is_ten_lines() -> None:
    """From `pip install` to a test that passes, as testing.md begins; the test above runs it in an empty directory."""
    first = next(read_blocks(PAGES["docs/testing.md"].read_text(encoding="utf-8")))
    lines = first.text.splitlines()
    assert lines[0].startswith("pip install")
    assert "pytest" in lines[-1]
    assert "passed" in str(first.output)
    assert len(lines) <= 10


def test_few_blocks_are_not_run() -> None:
    """What cannot run in a test is rare, and says why above."""
    blocks = [block for page in PAGES.values() for block in read_blocks(page.read_text(encoding="utf-8"))]
    assert sum(block.not_run is not None for block in blocks) <= 3
    assert len(blocks) > 50


# --- links


def anchors_of(text: str) -> set[str]:
    """The fragments that GitHub gives to the headings of a page."""
    anchors: set[str] = set()
    for heading in re.findall(r"^#+ +(.+)$", without_code(text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        same = sum(anchor == slug or anchor.startswith(f"{slug}-") for anchor in anchors)
        anchors.add(f"{slug}-{same}" if slug in anchors else slug)
    return anchors


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def links_of(text: str) -> list[str]:
    """The targets of a page's links that lead to other files of the project, or to a place in the page."""
    targets = re.findall(r"\]\(([^()\s]+)\)", without_code(text))
    return [target for target in targets if not re.match(r"https?:|mailto:", target)]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page: str) -> None:
    """No reader is sent nowhere."""
    text = PAGES[page].read_text(encoding="utf-8")
    for link in links_of(text):
        target, _, anchor = link.partition("#")
        path = PAGES[page].parent / target if target else PAGES[page]
        assert path.exists(), f"{page} links to {link}"
        if anchor:
            assert anchor in anchors_of(path.read_text(encoding="utf-8")), f"{page} links to {link}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    """No page is hidden."""
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path.suffix == ".md" and path.is_file() and path not in seen:
            seen.add(path)
            links = links_of(path.read_text(encoding="utf-8"))
            waiting += [(path.parent / link.partition("#")[0]).resolve() for link in links if not link.startswith("#")]
    assert seen >= {path.resolve() for path in PAGES.values()}


# --- completeness


def table_of_settings() -> dict[str, str]:
    """The names in the tables of configuration.md, and the default in the next column."""
    text = PAGES["docs/configuration.md"].read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `([A-Z_]+)` \|\s*([^|]*?)\s*\|", text, re.MULTILINE))


def test_every_setting_is_explained_with_its_default() -> None:
    """configuration.md has every name of .env.example and of the code, and the defaults that are in force."""
    listed = set(re.findall(r"^#?([A-Z][A-Z_]*)=", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))
    table = table_of_settings()
    assert set(table) == listed
    page = PAGES["docs/configuration.md"].read_text(encoding="utf-8")
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        names = [alias] if isinstance(alias, str) else [str(name) for name in getattr(alias, "choices", ())]
        assert names
        assert names[0] in table
        assert all(f"`{name}`" in page for name in names)
        if field.default is not None:
            assert table[names[0]] == f"`{field.default}`"


def test_every_public_name_is_mentioned() -> None:
    """Whatever `import database` offers stands on some page."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES.values())
    assert [name for name in db.__all__ if not re.search(rf"`[^`]*\b{name}\b|\b{name}\(", text)] == []


def test_every_command_and_option_is_explained() -> None:
    """command_line.md knows every command and every option that the program knows."""
    page = PAGES["docs/command_line.md"].read_text(encoding="utf-8")
    commands = {"": get_command(app)}
    while commands:
        name, command = commands.popitem()
        assert f"python -m database{name}" in page
        commands |= {f"{name} {below}": each for below, each in getattr(command, "commands", {}).items()}
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        assert [option for option in options if not re.search(rf"`[^`\n]*{option}\b", page)] == []


@pytest.mark.parametrize("page", PAGES)
def test_lines_are_not_too_long(page: str) -> None:
    """Prose fits an editor's window; rows of tables and output need not."""
    prose = without_code(PAGES[page].read_text(encoding="utf-8"))
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []


@pytest.mark.parametrize("page", PAGES)
def test_no_mark_of_a_merge_is_left(page: str) -> None:
    """No reader has to choose between two versions."""
    assert re.findall(r"^(?:<{7}|>{7}) .*$", PAGES[page].read_text(encoding="utf-8"), re.MULTILINE) == []


def test_output_is_compared() -> None:
    """The comparison sees a difference, and only those that matter."""
    assert is_as_shown("2 files, 153 B in 69.2 ms\n2 inserted", "2 files, 153 B in 0.12 s\n2 inserted\n")
    assert not is_as_shown("2 inserted", "3 inserted")
    assert is_as_shown("a\n…\nb", "a\nx\ny\nb")
    assert is_as_shown("data  /home/me/x\npid 17", "data /tmp/a\npid 4711")
    assert not is_as_shown("a … b", "a c")
