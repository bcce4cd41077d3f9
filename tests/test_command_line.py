"""Commands, their help and docs/command_line.md are in step."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from database.cli.commands import app

from .test_cli import COMMANDS

PAGE = (Path(__file__).parent.parent / "docs" / "command_line.md").read_text(encoding="utf-8")


def walk(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(name, command) for all that do something; groups only hold others."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
    for word, each in (below or {}).items():
        yield from walk(each, f"{name} {word}".strip())


ALL = dict(walk(get_command(app)))


def test_no_command_is_forgotten_by_the_tests() -> None:
    """The list that other tests go through is that of the program."""
    assert sorted(COMMANDS) == sorted(ALL)


@pytest.mark.parametrize("name", ALL)
def test_the_example_of_the_help_is_right_use(name: str) -> None:
    """It names the command itself, and every argument and option in it is taken."""
    command = ALL[name]
    assert command.help
    for example in re.findall(r"python -m database (.+?)(?: && |\)|$)", command.epilog or ""):
        words = shlex.split(example)
        if words[: len(name.split())] == name.split():
            context = command.make_context(name, words[len(name.split()) :], resilient_parsing=True)
            known = {option for parameter in command.params for option in parameter.opts}
            given = [word.partition("=")[0] for word in words if word.startswith("--")]
            assert [option for option in given if option not in known] == [], example
            context.close()
            break
    else:
        pytest.fail(f"no example of {name}: {command.epilog}")


@pytest.mark.parametrize("name", ALL)
def test_the_page_says_what_the_command_takes(name: str) -> None:
    """A section with the command as one types it, and there each option that is not explained for all."""
    assert f"python -m database {name}" in PAGE
    (section,) = re.findall(rf"^## {name.split()[0]}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    common = {"--json", "--debug", "--help", "--version"}
    own = {opt for each in ALL[name].params for opt in each.opts if opt.startswith("--")} - common
    everywhere = {
        "--name",
        "--dir",
        "--language",
        "--confirm",
        "--clean",
        "--server",
    }  # explained where they come first
    assert [option for option in own if option not in section and option not in everywhere] == []
    assert [option for option in own if option not in PAGE] == []


def test_the_page_shows_no_command_that_is_not_there() -> None:
    """Nor an option that no command takes."""
    options = {option for each in ALL.values() for parameter in each.params for option in parameter.opts}
    options |= {option for parameter in get_command(app).params for option in parameter.opts} | {"--help"}
    for line in re.findall(r"python -m database ([^\n`]+)", PAGE):
        words = re.split(r"[|&;<>]| 2>", line)[0].split()
        assert any(words[: len(name.split())] == name.split() for name in ALL) or words[0].startswith("--"), line
        assert [word for word in words if word.startswith("--") and word not in options] == [], line
