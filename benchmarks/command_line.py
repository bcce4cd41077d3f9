"""What the programs of the benchmark have in common: their options, and the line that says what is being done."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.live import Live
from rich.markup import escape

N = TypeVar("N", int, float)


@contextmanager
def show_progress(console: Console) -> Iterator[Callable[[str], None]]:
    """A function that says what is being done: in one line that changes, or line by line in a file."""
    began = time.perf_counter()
    # no spinner: it would take time from what is measured
    changing = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else nullcontext()
    with changing as live:

        def show(doing: str) -> None:
            line = f"[dim]{time.perf_counter() - began:6.1f} s  {escape(doing)}[/dim]"
            if live is not None:
                live.update(line, refresh=True)
            else:
                console.print(line)

        yield show


def names_from(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """For argparse: names out of *known*, separated by commas, in the order of *known*."""

    def parse(text: str) -> tuple[str, ...]:
        asked = [name.strip() for name in text.split(",")]
        for name in asked:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return tuple(name for name in known if name in asked)

    return parse


def positive(kind: type[N]) -> Callable[[str], N]:
    """For argparse: a number greater than 0."""

    def parse(text: str) -> N:
        try:
            number = kind(text)
        except ValueError:
            number = kind(0)
        if number <= 0:
            raise argparse.ArgumentTypeError(f"{text!r} is no number greater than 0")
        return number

    return parse


def folder(text: str) -> Path:
    """For argparse: a directory that is there."""
    path = Path(text).expanduser().resolve()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no directory")
    return path


def file_to_write(text: str) -> Path:
    """For argparse: a file that is there or can be made; known before the run, not at its end."""
    path = Path(text).expanduser()
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a directory")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written")
    return path


def write_file(path: Path, text: str) -> str:
    """Why *text* could not be written into *path*; nothing where it was."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        return f"{path} could not be written: {exc.strerror}"
    return ""
