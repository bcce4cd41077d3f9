"""
SQL files with versions, in the format of dbmate: how they are called, and what stands in them.

`NNNN_name.sql` holds a part below `-- migrate:up` and, if it can be undone, one below `-- migrate:down`. A part runs in
a transaction unless its mark says `transaction:false`. https://github.com/amacneil/dbmate#creating-migrations
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path

from .exceptions import SchemaError
from .lexer import Statement, split_statements

_FILE = re.compile(r"([0-9]{1,50})[_-]?(.*)\.sql", re.DOTALL)
_MARK = re.compile(r"^--[ \t]*migrate:(\w+)\b(.*)$", re.MULTILINE)
_TEMPLATE = "-- migrate:up\n\n\n-- migrate:down\n\n"


@dataclass(frozen=True)
class Part:
    """The SQL below one mark of a file, from its line number *line* on."""

    sql: str
    line: int
    in_transaction: bool

    @cached_property
    def statements(self) -> list[Statement]:
        """One by one, as they are run outside of a transaction."""
        return split_statements(self.sql)

    def line_at(self, position: int) -> int:
        """The line of the file that the character *position* of the part is on."""
        return self.line + self.sql.count("\n", 0, position)


@dataclass(frozen=True)
class Migration:
    """One SQL file; *checksum* is the SHA-256 of its text, *down* None where it cannot be undone."""

    file: str
    version: str
    name: str
    up: Part
    down: Part | None
    checksum: str

    @property
    def order(self) -> tuple[int, str]:
        """Where it comes among others: 9 is before 0010."""
        return order_of(self.version)


def order_of(version: str) -> tuple[int, str]:
    """What versions are sorted by."""
    return int(version), version


def parse_migration(file: str, text: str) -> Migration:
    """What the *text* of a *file* says; raises `SchemaError`, which names the file, where it is not as it should be."""
    named = _FILE.fullmatch(file)
    if named is None:
        raise SchemaError(f"{file}: the name of an SQL file is a version of digits and a name, such as 0001_users.sql")
    marks = list(_MARK.finditer(text))
    kinds = [mark[1] for mark in marks]
    if kinds not in (["up"], ["up", "down"]):
        raise SchemaError(f"{file} needs a line `-- migrate:up` and, behind it, at most one `-- migrate:down`")
    if split_statements(text[: marks[0].start()]):
        raise SchemaError(f"{file} has SQL above `-- migrate:up`, which would never run")
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    parts = [_part(file, text, mark, end) for mark, end in zip(marks, ends, strict=True)]
    down = parts[1] if len(parts) > 1 else None
    return Migration(file, named[1], named[2], parts[0], down, hashlib.sha256(text.encode()).hexdigest())


def _part(file: str, text: str, mark: re.Match[str], end: int) -> Part:
    options = mark[2].split()
    if unknown := [option for option in options if option not in ("transaction:false", "transaction:true")]:
        raise SchemaError(f"{file}: `-- migrate:{mark[1]}` knows the option transaction:false, not {unknown[0]!r}")
    line = text.count("\n", 0, mark.end()) + 1
    return Part(text[mark.end() : end], line, "transaction:false" not in options)


def check_statements(migrations: Iterable[Migration]) -> None:
    """Raise `SchemaError`, which names file and line, for a statement that has no place in a file."""
    for migration in migrations:
        _check_part(migration.file, "up", migration.up)
        if migration.down is not None:
            _check_part(migration.file, "down", migration.down)


def _check_part(file: str, kind: str, part: Part) -> None:
    for statement in part.statements:
        where = f"{file}, line {part.line_at(statement.start)}"
        if statement.talks_to_client:
            raise SchemaError(f"{where}: COPY from STDIN or to STDOUT has no place here; use INSERT")
        if part.in_transaction and statement.controls_transaction:
            raise SchemaError(
                f"{where}: {statement.words[0].upper()} has no place here: the file runs in a transaction; leave it "
                f"out, or write `-- migrate:{kind} transaction:false`"
            )


def read_directory(directory: Path | Traversable) -> list[Migration]:
    """
    The files of *directory* whose names begin with a version and end in .sql, in order; [] where there is none.

    Raises `SchemaError` where it is no directory, where a file is not as it should be, and where two have one version.
    """
    if not directory.is_dir():
        raise SchemaError(f"there is no directory {str(directory)!r} with SQL files")
    return read_files(file for file in directory.iterdir() if _FILE.fullmatch(file.name) and file.is_file())


def read_files(files: Iterable[Path | Traversable]) -> list[Migration]:
    """As `read_directory`, for the *files* themselves."""
    found = sorted((_read(file) for file in files), key=lambda each: each.order)
    for one, other in pairwise(found):
        if one.order[0] == other.order[0]:
            raise SchemaError(f"{one.file} and {other.file} have the same version; give one of them a later one")
    return found


def _read(file: Path | Traversable) -> Migration:
    try:
        return parse_migration(file.name, file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise SchemaError(f"cannot read {file.name}: {_reason(exc)}", original_error=exc) from exc


def _reason(exc: OSError | UnicodeDecodeError) -> str:
    return f"it is not UTF-8 (byte {exc.start})" if isinstance(exc, UnicodeDecodeError) else exc.strerror or str(exc)


def up_to(target: str | None, files: Sequence[Migration]) -> list[Migration]:
    """
    The *files* up to the one with the version, or the name, *target*; all of them without it.

    Raises `SchemaError` where no file is called so.
    """
    if target is None:
        return list(files)
    for number, each in enumerate(files, 1):
        if target in (each.version, each.file):
            return list(files[:number])
    known = ", ".join(each.version for each in files) or "none"
    raise SchemaError(f"there is no SQL file with the version {target!r}; there are: {known}")


def new_migration(name: str, directory: Path) -> Path:
    """
    A new file in *directory*, which is made, with the time as its version and marks to be filled in.

    Raises `SchemaError` where nothing is left of *name* but signs.
    """
    slug = re.sub(r"\W+", "_", name.lower()).strip("_")
    if not slug:
        raise SchemaError(f"{name!r} is no name for an SQL file: use letters and digits")
    path = directory / f"{datetime.now(UTC):%Y%m%d%H%M%S}_{slug}.sql"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(_TEMPLATE)
    except OSError as exc:
        raise SchemaError(f"cannot make {path}: {exc.strerror or exc}", original_error=exc) from exc
    return path
