"""
What a statement leaves in its session: settings, locks, listeners, temporary tables, prepared statements.

Behind a pooler in transaction mode the next statement may run in another session, and the next client in this one. What
functions and DO blocks do inside is not seen.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from .lexer import tokens


class SessionState(NamedTuple):
    """Something that outlives the statement that made it, and what to do instead."""

    what: str
    way_out: str


# Of words in small letters and signs, with one space between them; what is quoted is a sign.
_STATEMENTS = [
    (re.compile(pattern), SessionState(what, way_out))
    for pattern, what, way_out in (
        (r"(?:un)?listen\b", "LISTEN", "listen through a connection to the server itself"),
        (r"set session authorization\b", "SET SESSION AUTHORIZATION", "use SET LOCAL ROLE in a transaction"),
        (r"set (?!local\b|transaction\b|constraints\b)", "SET", "use SET LOCAL in a transaction, or ALTER ROLE"),
        (r"prepare (?!transaction\b)", "PREPARE", "conn.prepare() prepares anew for each use"),
        (r"(?:execute|deallocate)\b", "a statement prepared in SQL", "conn.prepare() prepares anew for each use"),
        (r"discard\b", "DISCARD", "there is nothing of yours to throw away"),
        (r"load\b", "LOAD", "set session_preload_libraries in the server"),
        (r"declare\b.* with hold\b", "a cursor WITH HOLD", "read it within a transaction"),
        (r"(?:select|with)\b.* into temp", "SELECT INTO TEMP", "CREATE TEMP TABLE … ON COMMIT DROP"),
        (
            r"create (?:or replace )?(?:(?:(?:global|local) )?temp(?:orary)?\b|\w+ (?:if not exists )?pg_temp \.)"
            r"(?!.* on commit drop\b)",
            "an object that is temporary",
            "make a table within a transaction, with ON COMMIT DROP",
        ),
        (
            r".*\bpg_(?:try_)?advisory_(?:lock(?:_shared)?|unlock(?:_shared|_all)?) \(",
            "a session's advisory lock",
            "use pg_advisory_xact_lock in a transaction",
        ),
        (
            # with anything but true: who knows what a parameter is
            r".*\bset_config \((?![^()]*(?:\([^()]*(?:\([^()]*\)[^()]*)*\)[^()]*)*, true \))",
            "set_config(…, false)",
            "use set_config(…, true) in a transaction",
        ),
    )
]
_LONGEST_CACHED = 10_000  # characters


def session_state_of(sql: str) -> SessionState | None:
    """What *sql* would leave in its session; None where it leaves nothing that can be seen."""
    return _look_up(sql) if len(sql) <= _LONGEST_CACHED else _look(sql)


def _look(sql: str) -> SessionState | None:
    plain = " ".join([_plainly(kind, text) for kind, text, _ in tokens(sql)])
    for statement in plain.split(" ; "):
        for pattern, state in _STATEMENTS:
            if pattern.match(statement.removeprefix("; ")):
                return state
    return None


def _plainly(kind: str, text: str) -> str:
    if kind == "quoted" and text[0] == '"':
        return re.sub(r"\W", "_", text[1:-1]) or "_"
    return text.lower() if kind == "word" else "''" if kind in ("quoted", "escaped", "dollar") else text


_look_up = lru_cache(maxsize=1024)(_look)
