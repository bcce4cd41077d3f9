"""SQL without the values that stand in it, so that statements that differ in nothing else are one."""

from __future__ import annotations

import re

from ..lexer import SKIPPED, end_of_comment

_LONGEST = 4_000  # characters that are looked at, and kept
_TOKEN = re.compile(
    rf"""{SKIPPED}
    | (?P<cut>       (?<![\w$]) (?:[eE]?' | "  | \$(?:[^\W\d]\w*)?\$ ) .* )  # what has no end, for it was cut off
    | (?P<number>    (?<![\w$.]) (?:0[xX][\da-fA-F_]+ | \d[\d_]*(?:\.[\d_]*)?(?:[eE][+-]?\d+)? | \.\d+) \b )
    | (?P<parameter> \$\d+ )
    | (?P<word>      [^\W\d][\w$]* )
    | (?P<space>     \s+ )
    | (?P<sign>      . )""",
    re.VERBOSE | re.DOTALL,
)
_LIST = re.compile(r"\?(?: ?, ?\?)+")


def mask(sql: str) -> str:
    """
    *sql* in one line, without comments and with `?` for each literal; a list of literals is one. Names stay.

    What is longer than 4,000 characters ends in "…". `pg_stat_statements` does the like in the server.
    """
    pieces: list[str] = []
    text, position = sql[:_LONGEST], 0
    while token := _TOKEN.match(text, position):
        kind, position = token.lastgroup, token.end()
        if kind == "block":
            position = end_of_comment(text, position)
        if kind in ("block", "line", "space"):
            if pieces and pieces[-1] != " ":
                pieces.append(" ")
        else:
            literal = kind in ("escaped", "dollar", "tag", "cut", "number") or token[0].startswith("'")
            pieces.append("?" if literal else token[0])
    masked = _LIST.sub("?, …", "".join(pieces).strip())
    return masked + "…" if len(sql) > _LONGEST else masked


def mask_plan(plan: str) -> str:
    """*plan* with `?` for the literals of its conditions; costs and estimates stay."""
    return "\n".join(line if "(cost=" in line else _mask_line(line) for line in plan.splitlines())


def _mask_line(line: str) -> str:
    indent = line[: len(line) - len(line.lstrip())]
    return indent + mask(line)
