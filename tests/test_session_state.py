"""What of a statement stays in its session: told from SQL alone, without being taken in by texts and comments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from database.session_state import session_state_of


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("LISTEN news", "LISTEN"),
        ("  -- a comment\n /* another */ listen news", "LISTEN"),
        ("SET search_path = other", "SET"),
        ("set session work_mem = '1MB'", "SET"),
        ("SET ROLE somebody", "SET"),
        ("SET SESSION AUTHORIZATION somebody", "SET SESSION AUTHORIZATION"),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SET"),
        ("SELECT 1; SET work_mem = '1MB'", "SET"),
        ("PREPARE p AS SELECT 1", "PREPARE"),
        ("EXECUTE p", "a statement prepared in SQL"),
        ("DEALLOCATE ALL", "a statement prepared in SQL"),
        ("DISCARD ALL", "DISCARD"),
        ("LOAD 'auto_explain'", "LOAD"),
        ("CREATE TEMP TABLE t (a int)", "an object that is temporary"),
        ("CREATE LOCAL TEMPORARY TABLE t AS SELECT 1", "an object that is temporary"),
        ("CREATE TEMP VIEW v AS SELECT 1", "an object that is temporary"),
        ("CREATE OR REPLACE TEMP VIEW v AS SELECT 1", "an object that is temporary"),
        ("CREATE TABLE IF NOT EXISTS pg_temp.t (a int)", "an object that is temporary"),
        ("/* one /* within */ another */ SET a = 1", "SET"),
        ("SELECT 1 AS a INTO TEMP t", "SELECT INTO TEMP"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "a cursor WITH HOLD"),
        ("SELECT pg_advisory_lock($1)", "a session's advisory lock"),
        ("SELECT pg_try_advisory_lock_shared (1, 2)", "a session's advisory lock"),
        ('SELECT pg_catalog."pg_advisory_lock"(1)', "a session's advisory lock"),
        ("SELECT set_config('a.b', lower($1), FALSE)", "set_config(…, false)"),
        ("SELECT set_config('a.b', $1, $2)", "set_config(…, false)"),
        ("SELECT set_config('a.b', $1, true), set_config('a.b', $1, not true)", "set_config(…, false)"),
    ],
)
def test_what_outlives_its_statement_is_told(sql: str, what: str) -> None:
    """Settings, listeners, locks, temporary objects and prepared statements, alone or behind another statement."""
    state = session_state_of(sql)
    assert state is not None
    assert state.what == what
    assert state.way_out


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "SELECT 1",
        "UPDATE t SET a = 1",
        "SET LOCAL work_mem = '1MB'",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET CONSTRAINTS ALL DEFERRED",
        "RESET ALL",
        "PREPARE TRANSACTION 'x'",
        "SELECT pg_advisory_xact_lock($1), pg_try_advisory_xact_lock(1)",
        "SELECT set_config('a.b', $1, true), coalesce(x, false)",
        "SELECT set_config('a.b', coalesce(lower($1), ''), true), set_config('a.c', $1, TRUE)",
        "CREATE TEMP TABLE t (a int) ON COMMIT DROP",
        "CREATE TEMPORARY TABLE t ON COMMIT DROP AS SELECT 1",
        "CREATE TABLE temp (a int)",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = public AS 'SELECT 1'",
        "SELECT 'x; LISTEN news', $$; SET a = 1$$, $t$ pg_advisory_lock(1) $t$, E'\\'; SET a = 1'",
        "-- ; LISTEN news\nSELECT 1 /* ; SET a = 1 */",
        'SELECT "; listen" FROM t',
        "DO $$ BEGIN EXECUTE 'SELECT 1'; END $$",
        "DECLARE c CURSOR FOR SELECT 1",
        "SELECT listen FROM t",
    ],
)
def test_what_ends_with_its_statement_or_transaction_is_let_through(sql: str) -> None:
    """Also where a text, a quoted name or a comment looks like more."""
    assert session_state_of(sql) is None


@given(st.text(alphabet="aSETLISN;'\"$-/*\\\n( )e1,", max_size=200))
def test_any_text_has_an_answer(sql: str) -> None:
    """However broken, in bounded time: PostgreSQL is the one to complain of it."""
    session_state_of(sql)
