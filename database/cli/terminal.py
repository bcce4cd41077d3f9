"""
How a command speaks: data on stdout, talk on stderr, for people or as JSON.

Colours, width and what a stream can show are decided here and nowhere else. Texts come from files and databases, so
none of them is taken for markup, and none can send a control character to the terminal.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

Part = str | tuple[str, str] | Text  # a text, a text with a style, a text that is clean already

_WIDEST = 100  # columns; longer lines are hard to read
_HIT = "bold yellow"
_BREAKS = frozenset({"Cc", "Zl", "Zp"})  # control characters, line and paragraph separators
_BIDI = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))  # they turn the rest of a line around


class Terminal:
    """The two streams of a command; with *as_json*, stdout gets one JSON document and nothing else."""

    def __init__(self, *, as_json: bool = False) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a character that it lacks is no reason to fail
        self.as_json = as_json
        self.out = _console(sys.stdout.isatty() if sys.stdout else False, quiet=as_json)
        self.err = _console(sys.stderr.isatty() if sys.stderr else False, stderr=True)

    def show(self, *parts: Part, indent: int = 0) -> None:
        """A line of data for people. A terminal wraps it, behind *indent* columns; anything else gets it whole."""
        _print(self.out, _assemble(parts), indent)

    def show_labelled(self, label: Part, *parts: Part, width: int, indent: int = 0) -> None:
        """A line behind a label of *width* columns, under which a terminal wraps nothing."""
        name = _assemble([label])
        name.append(" " * max(1, width - name.cell_len))
        if not _is_terminal(self.out):
            self.show(name, *parts, indent=indent)
            return
        line = Table.grid()
        line.add_column(no_wrap=True)
        line.add_column(overflow="fold")
        line.add_row(name, _assemble(parts))
        self.out.print(Padding(line, (0, 0, 0, indent), expand=False))

    def show_pair(self, left: Part, right: Part, *, indent: int = 0) -> None:
        """A line with something at its right end."""
        one, other = _assemble([left]), _assemble([right])
        gap = max(2, self.out.width - indent - one.cell_len - other.cell_len)
        self.show(one, " " * (gap if _is_terminal(self.out) else 2), other, indent=indent)

    def give(self, document: object) -> None:
        """The JSON document; datetimes become ISO 8601. Nothing where people read."""
        if self.as_json:
            utf8 = self.can_show("\N{BULLET}")
            text = json.dumps(document, default=_json_value, ensure_ascii=not utf8, indent=2)
            self.out.file.write(text + "\n")
            self.out.file.flush()

    def talk(self, *parts: Part) -> None:
        """A line on stderr that is no data."""
        _print(self.err, _assemble(parts))

    def talk_lines(self, text: str) -> None:
        """Several such lines."""
        for line in text.splitlines():
            self.talk((line, "dim"))

    def hint(self, text: str) -> None:
        """A way out, on stderr."""
        self.talk(("hint: ", "bold"), text)

    def complain(self, exc: BaseException) -> None:
        """*exc* as one red line on stderr, what else it has to say (the end of a log) below it; also as JSON."""
        first, _, rest = (str(exc) or type(exc).__name__).partition("\n")
        self.talk((f"error: {first}", "red"))
        self.talk_lines(rest)
        about = {"error": str(exc), "type": type(exc).__name__, "sqlstate": getattr(exc, "sqlstate", None)}
        self.give(about | {"failures": failures} if (failures := getattr(exc, "failures", None)) else about)

    @property
    def is_interactive(self) -> bool:
        """True where stdout is a terminal, so that lines are to fit."""
        return _is_terminal(self.out)

    @contextmanager
    def bar(self, what: str) -> Iterator[Callable[[int, int | None], None]]:
        """A progress bar for the time of the block, moved by (done, total); none where stderr is no terminal."""
        if not _is_terminal(self.err) or self.err.is_dumb_terminal:
            yield lambda done, total: None
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(complete_style="green", finished_style="green", pulse_style="green"),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        # stdout stays as it is: it may be a pipe
        progress = Progress(*columns, console=self.err, transient=True, redirect_stdout=False, redirect_stderr=False)
        with progress:
            task = progress.add_task(one_line(what), total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)

    def can_show(self, text: str) -> bool:
        """True where the encoding of stdout has the characters of *text*."""
        try:
            text.encode(self.out.encoding)
        except (LookupError, UnicodeEncodeError):
            return False
        return True

    def highlight(self, snippet: str, *, title: str = "") -> Text:
        """
        *snippet* of a search in one line, less the *title* where that is the heading that it begins with.

        Its `<mark>`s become colour, or *asterisks* where there are no styles.
        """
        text = Text()
        for position, piece in enumerate(re.split(r"</?mark>", without_markdown(snippet))):
            text.append(piece, _HIT if position % 2 else "")
        if snippet.startswith("#") and text.plain.startswith(f"{title} "):
            text = text[len(title) + 1 :]
        if self.out.color_system is not None:
            return text
        starred = text.plain
        for span in sorted(text.spans, reverse=True):
            starred = f"{starred[: span.start]}*{starred[span.start : span.end]}*{starred[span.end :]}"
        return Text(starred)

    def excerpt(self, text: Text, *, indent: int, lines: int) -> Iterator[Text]:
        """Those *lines* lines side by side of *text*, wrapped, that hold most of its highlights."""
        text.rstrip()
        wrapped = text.wrap(self.out, self.out.width - indent)
        marks = [len(line.spans) + line.plain.count("*") for line in wrapped]
        starts = range(max(1, len(wrapped) - lines + 1))
        best = max(starts, key=lambda start: sum(marks[start : start + lines]), default=0)
        yield from wrapped[best : best + lines]


def log_to(terminal: Terminal, level: int) -> None:
    """Show the package's log lines from *level* on as talk."""
    logger = logging.getLogger("database")
    logger.handlers = [_TalkHandler(terminal)]
    logger.setLevel(level)
    logger.propagate = False


class _TalkHandler(logging.Handler):
    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        for line in self.format(record).splitlines():
            self._terminal.talk((line, style))


def one_line(text: str) -> str:
    """*text* without anything that a terminal would obey: control characters, line breaks, changes of direction."""
    return "".join(" " if c in _BIDI or unicodedata.category(c) in _BREAKS else c for c in text)


_MARKDOWN = (
    (r"\{\s*[#.:*%][^{}\n…]*\}?", ""),  # attributes and inclusions, { #anchor }
    (r"!?\[([^\[\]]*)\]\([^()\s]*\)?", r"\1"),  # links and pictures
    (r"\]\([^()\s]*\)?", ""),  # their ends, where the snippet begins inside
    (r"\|[-:| ]+\|", " "),  # the line below the head of a table
    (r"</?(?!mark>)[a-zA-Z][^<>\n]*>", " "),
    (r"^\s*(?:#+|[-*+>]|/{3,}.*|\|)\s+", ""),
    (r"`{3,}\S*|`|\*|\\$|(?<=\s)\|(?=\s)", ""),
)


def without_markdown(text: str) -> str:
    """*text* in one line, as it reads: without the signs that make headings, links and code of it. Keeps `<mark>`."""
    for pattern, replacement in _MARKDOWN:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return " ".join(one_line(text).split())


def format_seconds(seconds: float) -> str:
    """Such as "4.1 ms" or "1.73 s"."""
    return f"{seconds * 1000:,.1f} ms" if seconds < 0.1 else f"{seconds:,.2f} s"


def format_bytes(size: float) -> str:
    """Such as "12.4 MB"."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:,.0f} B" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def _console(is_terminal: bool, *, stderr: bool = False, quiet: bool = False) -> Console:
    console = Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)
    if is_terminal and console.width > _WIDEST:
        console.width = _WIDEST
    return console


def _is_terminal(console: Console) -> bool:
    """Whether it really is one: FORCE_COLOR asks for colours, not for line breaks and a moving cursor."""
    return console.file.isatty()


def _assemble(parts: Iterator[Part] | list[Part] | tuple[Part, ...]) -> Text:
    text = Text()
    for part in parts:
        if isinstance(part, Text):
            text.append_text(part)
        elif isinstance(part, tuple):
            text.append(one_line(part[0]), part[1])
        else:
            text.append(one_line(part))
    return text


def _print(console: Console, text: Text, indent: int = 0) -> None:
    if not text:
        console.print()
    elif _is_terminal(console):
        console.print(Padding(text, (0, 0, 0, indent), expand=False))
    else:
        console.print(Text(" " * indent) + text, soft_wrap=True)


def _json_value(value: object) -> object:
    if isinstance(value, date):  # a datetime is one, too
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
