"""Named parameters in SQL that people write: `:age` becomes `$1`, and whatever else has a colon is left alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .exceptions import InvalidDataError

# What is skipped as a whole, and last the names. Comments nest, so that only their beginning is found here.
# https://www.postgresql.org/docs/current/sql-syntax-lexical.html
_TOKEN = re.compile(
    r"""
      (?P<escaped> (?<![\w$]) [eE]'(?:[^'\\]|\\.|'')*' )
    | (?P<quoted>  '(?:[^']|'')*' | "(?:[^"]|"")*" )
    | (?P<dollar>  (?<![\w$]) \$(?P<tag>(?:[^\W\d]\w*)?)\$ .*? \$(?P=tag)\$ )
    | (?P<line>    --[^\n]* )
    | (?P<block>   /\* )
    | (?P<cast>    ::|:= )
    | (?P<name>    (?<![\w$)\]":]) :(?P<key>[^\W\d]\w*) )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT = re.compile(r"/\*|\*/")


def number_names(sql: str, values: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """
    *sql* with `$1`, `$2`, … in place of `:name`, and the values in that order; a name that occurs twice is one of them.

    Casts, literals, dollar quotes, quoted identifiers, comments and slices of arrays are left alone. Raises
    `InvalidDataError` for a name that *values* does not have.
    """
    parts: list[str] = []
    numbers: dict[str, int] = {}
    copied = position = 0
    while token := _TOKEN.search(sql, position):
        position = token.end()
        if token["block"]:
            position = _end_of_comment(sql, position)
        elif key := token["key"]:
            if key not in values:
                raise InvalidDataError(f"the statement asks for :{key}, which is not among the values given")
            number = numbers.setdefault(key, len(numbers) + 1)
            parts += [sql[copied : token.start()], f"${number}"]
            copied = position
    return "".join([*parts, sql[copied:]]), [values[name] for name in numbers]


def _end_of_comment(sql: str, position: int) -> int:
    depth = 1
    while depth and (mark := _COMMENT.search(sql, position)):
        depth += 1 if mark[0] == "/*" else -1
        position = mark.end()
    return position if not depth else len(sql)
