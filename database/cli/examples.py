"""The commands about examples: programs of one screen each, which come with the package."""

from __future__ import annotations

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, TextIO

import typer

from ..exceptions import DatabaseError
from .running import Debug, Json, run_command
from .terminal import Terminal

examples = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Programs of one screen each, to be run and read.",
    epilog="Example: python -m database examples run quickstart",
)

_COMMAND = re.compile(r"`([^`]+)`")


def find_examples() -> dict[str, Path]:
    """The examples by their names: of the checkout that this runs from, else what was installed; may be empty."""
    package = Path(__file__).resolve().parent.parent
    for directory in (package.parent / "examples", package / "examples"):
        if (directory / "quickstart.py").is_file():
            return {path.stem: path for path in sorted(directory.glob("*.py"))}
    return {}


def read_purpose(path: Path) -> str:
    """The first paragraph of its docstring: what it shows, and in backticks how it is run."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n\n")[0].replace("\n", " ")


def command_of(path: Path) -> list[str]:
    """What runs it, in this Python: `python quickstart.py`, `uvicorn app:app`, `pytest test_notes.py`, …"""
    found = _COMMAND.search(read_purpose(path))
    words = shlex.split(found[1]) if found else ["python", path.name]
    known = {each.name: str(each) for each in find_examples().values()}
    program, *arguments = (known.get(word, word) for word in words)
    return [sys.executable, *([] if program == "python" else ["-m", program]), *arguments]


@examples.command("list", epilog="Example: python -m database examples list")
def list_examples(as_json: Json = False, debug: Debug = False) -> None:
    """List the examples."""
    run_command(_list, as_json, debug)


async def _list(terminal: Terminal) -> int:
    found = find_examples()
    width = max(map(len, found), default=0) + 2
    purposes = {name: read_purpose(path) for name, path in found.items()}
    for name, purpose in purposes.items():
        terminal.show_labelled((name, "bold"), purpose, width=width)
    if not found:
        terminal.talk("this installation has no examples")
    terminal.give([{"name": name, "purpose": purposes[name], "path": str(path)} for name, path in found.items()])
    return 0


@examples.command(
    context_settings={"ignore_unknown_options": True}, epilog="Example: python -m database examples run quickstart"
)
def run(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As it is listed.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[ARGUMENTS...]", help="For the example.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run an example with the database that is configured. Its exit code is the command's."""
    path = find_examples().get(name.removesuffix(".py"))
    if path is None:
        raise typer.BadParameter(f"there is no example {name!r}: python -m database examples list")
    run_command(lambda terminal: _run(terminal, path, arguments or []), as_json, debug)


async def _run(terminal: Terminal, path: Path, arguments: list[str]) -> int:
    # uvicorn and the like import the example by its name
    places = [str(path.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    command = [*command_of(path), *arguments]
    terminal.talk((shlex.join(command), "dim"))
    code = _wait_for(command, environment, stdout=sys.stderr if terminal.as_json else None)
    terminal.give({"name": path.stem, "exit_code": code})
    return code if code >= 0 else 128 - code


def _wait_for(command: list[str], environment: dict[str, str], stdout: TextIO | None) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the event loop stands still, and would not hear of it
    try:
        # programs of our own, and no shell
        return subprocess.run(command, env=environment, stdout=stdout, check=False).returncode  # noqa: S603
    except OSError as exc:
        raise DatabaseError(f"cannot run {command[0]}: {exc.strerror}") from exc
