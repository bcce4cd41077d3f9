"""Where the statements of a script end."""

from __future__ import annotations

import pytest

from database.lexer import split_statements

WHOLE = (
    "SELECT ';', 'it''s;', E'a\\';', U&'\\0041;', $$;$$, $x$;$$;$x$, \"a;b\"",
    "SELECT 1 -- ;\n + 1",
    "SELECT /* ; /* ; */ ; */ 1",
    "CREATE RULE r AS ON INSERT TO a DO (SELECT 1; SELECT 2)",
    "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END; $$",
    "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END",
    "CREATE PROCEDURE p() BEGIN ATOMIC DELETE FROM a; END",
    "DO $do$ BEGIN PERFORM 1; END $do$",
)


@pytest.mark.parametrize("statement", WHOLE)
def test_a_statement_is_one_whatever_it_holds(statement: str) -> None:
    """Semicolons in literals, comments, parentheses and bodies of functions end nothing."""
    script = f"-- first;\n{statement};;\n{statement} ; -- last;\n"
    found = split_statements(script)
    assert [each.text for each in found] == [statement, statement]
    assert [script[each.start :].startswith(statement) for each in found] == [True, True]


def test_without_statements_there_are_none() -> None:
    """Comments and semicolons are no statements."""
    assert split_statements("") == split_statements(" ; -- x\n /* ; */ ;") == []


@pytest.mark.parametrize(
    ("statement", "controls"),
    [
        ("BEGIN", True), ("start transaction READ ONLY", True), ("COMMIT AND CHAIN", True), ("end", True),
        ("ABORT", True), ("ROLLBACK", True), ("PREPARE TRANSACTION 'x'", True),
        ("ROLLBACK TO SAVEPOINT a", False), ("ROLLBACK WORK TO a", False), ("SAVEPOINT a", False),
        ("PREPARE q AS SELECT 1", False), ("SELECT 'COMMIT'", False), ('"begin"', False),
    ],
)  # fmt: skip
def test_what_begins_or_ends_a_transaction(statement: str, controls: bool) -> None:
    """Savepoints do not."""
    assert [each.controls_transaction for each in split_statements(statement)] == [controls]
