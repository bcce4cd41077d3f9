"""
What a statement leaves in its session: settings, locks, listeners, temporary tables, prepared statements.

Behind a pooler in transaction mode the next statement may run in another session, and the next client in this one. What
functions and DO blocks do inside is not seen.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple


class SessionState(NamedTuple):
    """Something that outlives the statement that made it, and what to do instead."""

    what: str
    way_out: str


_NOT_SQL = re.compile(
    r"""
    (?P<comment>--[^\n]*|/\*.*?\*/)
  | (?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$
  | (?<!\w)[eE]'(?:[^'\\]|\\.|'')*'
  | '(?:[^']|'')*'
  | "(?P<name>(?:[^"]|"")*)"
    """,
    re.DOTALL | re.VERBOSE,
)
_STATEMENTS = [
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), SessionState(what, way_out))
    for pattern, what, way_out in (
        (r"(?:UN)?LISTEN\b", "LISTEN", "listen through a connection to the server itself"),
        (r"SET\s+SESSION\s+AUTHORIZATION\b", "SET SESSION AUTHORIZATION", "use SET LOCAL ROLE in a transaction"),
        (
            r"SET\s+(?!LOCAL\b|TRANSACTION\b|CONSTRAINTS\b)",
            "SET",
            "use SET LOCAL in a transaction, or ALTER ROLE",
        ),
        (r"PREPARE\s+(?!TRANSACTION\b)", "PREPARE", "conn.prepare() prepares anew for each use"),
        (r"(?:EXECUTE|DEALLOCATE)\b", "a statement prepared in SQL", "conn.prepare() prepares anew for each use"),
        (r"DISCARD\b", "DISCARD", "there is nothing of yours to throw away"),
        (r"LOAD\b", "LOAD", "set session_preload_libraries in the server"),
        (r"DECLARE\b.*\bWITH\s+HOLD\b", "a cursor WITH HOLD", "read it within a transaction"),
        (r"(?:SELECT|WITH)\b.*\bINTO\s+TEMP", "SELECT INTO TEMP", "CREATE TEMP TABLE … ON COMMIT DROP"),
        (
            r"CREATE\s+(?:(?:GLOBAL|LOCAL)\s+)?TEMP(?:ORARY)?\s+(?!TABLE\b.*\bON\s+COMMIT\s+DROP\b)",
            "an object that is temporary",
            "make a table within a transaction, with ON COMMIT DROP",
        ),
    )
]
_LOCK = re.compile(r"\bpg_(?:try_)?advisory_(?:lock(?:_shared)?|unlock(?:_shared|_all)?)\s*\(", re.IGNORECASE)
_SET_CONFIG = re.compile(r"\bset_config\s*\((?:[^()]|\([^()]*\))*,\s*false\s*\)", re.IGNORECASE)
_LONGEST_CACHED = 10_000  # characters


def session_state_of(sql: str) -> SessionState | None:
    """What *sql* would leave in its session; None where it leaves nothing that can be seen."""
    return _look_up(sql) if len(sql) <= _LONGEST_CACHED else _look(sql)


def _look(sql: str) -> SessionState | None:
    plain = _NOT_SQL.sub(_plainly, sql)
    if _LOCK.search(plain):
        return SessionState("a session's advisory lock", "use pg_advisory_xact_lock in a transaction")
    if _SET_CONFIG.search(plain):
        return SessionState("set_config(…, false)", "use set_config(…, true) in a transaction")
    for statement in plain.split(";"):
        for pattern, state in _STATEMENTS:
            if pattern.match(statement.strip()):
                return state
    return None


def _plainly(found: re.Match[str]) -> str:
    if found["comment"]:
        return " "
    return "''" if found["name"] is None else re.sub(r"\W", "_", found["name"]) or "_"


_look_up = lru_cache(maxsize=1024)(_look)
