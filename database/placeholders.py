"""Named parameters in SQL that people write: `:age` becomes `$1`, and whatever else has a colon is left alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .exceptions import InvalidDataError
from .lexer import SKIPPED, end_of_comment

_TOKEN = re.compile(
    rf"""
      {SKIPPED}
    | (?P<cast>    ::|:= )
    | (?P<name>    (?<![\w$)\]":]) :(?P<key>[^\W\d]\w*) )
    """,
    re.VERBOSE | re.DOTALL,
)


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
            position = end_of_comment(sql, position)
        elif key := token["key"]:
            if key not in values:
                raise InvalidDataError(f"the statement asks for :{key}, which is not among the values given")
            number = numbers.setdefault(key, len(numbers) + 1)
            parts += [sql[copied : token.start()], f"${number}"]
            copied = position
    return "".join([*parts, sql[copied:]]), [values[name] for name in numbers]
