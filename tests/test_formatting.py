"""Values for logs and for storage."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

import database as db
from database import repository
from database.settings import Settings


class Model(BaseModel):
    name: str
    at: datetime


@dataclasses.dataclass
class Point:
    x: float
    tags: set[str]


class Colour(enum.Enum):
    RED = "red"


NOW = datetime(2024, 2, 29, 12, tzinfo=UTC)
ID = UUID("550e8400-e29b-41d4-a716-446655440000")


def test_a_log_line_is_short() -> None:
    """Long texts, long lists, deep nesting: cut, and how much is missing."""
    assert db.format_for_log("x" * 205) == f'"{"x" * 200}… (+5 characters)"'
    assert db.format_for_log(list(range(12))) == '[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, "… (+2)"]'
    assert db.format_for_log({"a": {"b": {"c": {"d": {"e": 1, "f": 2}}}}}) == '{"a": {"b": {"c": {"d": "{… (2)}"}}}}'
    assert db.format_for_log({str(n): n for n in range(4)}, max_items=2) == '{"0": 0, "1": 1, "…": "+2"}'
    assert db.format_for_log("abcdef", max_length=3) == '"abc… (+3 characters)"'
    assert len(db.format_for_log([["x" * 10_000] * 1_000] * 1_000)) < 30_000


def test_a_log_line_is_one_line_without_secrets() -> None:
    """Line ends of every kind are escaped, and what is called like a secret is hidden."""
    text = db.format_for_log("a\nb\r\x1b[31m\u2028c\x85")
    assert text == '"a\\nb\\r\\u001b[31m\\u2028c\\u0085"' and len(text.splitlines()) == 1
    shown = db.format_for_log({"user": "u", "Password": "p", "api_key": "k", "nested": {"access_token": "t"}})
    assert json.loads(shown) == {"user": "u", "Password": "***", "api_key": "***", "nested": {"access_token": "***"}}


def test_a_log_line_takes_anything() -> None:
    """Types that JSON has nothing for, bytes, what holds itself, what cannot even be looked at."""

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

        def __repr__(self) -> str:
            raise RuntimeError

    itself: list[Any] = []
    itself.append(itself)
    values = [Model(name="n", at=NOW), Point(math.nan, {"a"}), ID, date(2024, 1, 2), Decimal("1.5"), b"abc", Colour.RED]
    assert json.loads(db.format_for_log(values)) == [
        {"name": "n", "at": "2024-02-29T12:00:00+00:00"}, {"x": "nan", "tags": ["a"]}, str(ID), "2024-01-02", "1.5",
        "<3 bytes>", "red",
    ]  # fmt: skip
    assert db.format_for_log(Broken()) == '"<Broken>"'
    assert db.format_for_log(itself) == '[[[["[… (1)]"]]]]'
    assert "bits" in db.format_for_log(10**100_000)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes() | st.uuids(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
))  # fmt: skip
def test_whatever_it_is_it_can_be_formatted(value: Any) -> None:
    """A log line is one line; a variable is JSON without what PostgreSQL refuses."""
    assert len(db.format_for_log(value).splitlines()) == 1
    text = json.dumps(db.format_variable(value), allow_nan=False, ensure_ascii=False)
    assert "\0" not in text and "\\u0000" not in text.replace("\\\\", "")
    text.encode()


def test_variables_for_storage() -> None:
    """Every type has its form, also as a key and inside of others."""
    value = {
        "model": Model(name="n", at=NOW), "point": Point(math.inf, {"b", "a"}), "id": ID, "price": Decimal("1.50"),
        "when": date(2024, 1, 2), "took": timedelta(minutes=1.5), "raw": b"\xff", "colour": Colour.RED, 1: (True, None),
        ID: "a\0b\ud800c",
    }  # fmt: skip
    assert db.format_variable(value) == {
        "model": {"name": "n", "at": "2024-02-29T12:00:00+00:00"}, "point": {"x": None, "tags": ["a", "b"]},
        "id": str(ID), "price": "1.50", "when": "2024-01-02", "took": 90.0, "raw": "/w==", "colour": "red",
        "1": [True, None], str(ID): "ab\N{REPLACEMENT CHARACTER}c",
    }  # fmt: skip
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(ValueError, match="without end"):
        db.format_variable(itself)
    with pytest.raises(TypeError, match="object is not JSON"):
        db.format_variable({"a": object()})


@pytest.mark.parametrize(
    ("response", "stored"),
    [
        ("  Hello.\r\nBye.\0 ", "Hello.\nBye."),
        ('{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
        ('```json\n{"a": "b\\u0000"}\n```', {"a": "b"}),
        ("```\n[1, 2]\n```", [1, 2]),
        ("```python\nprint(1)\n```", "```python\nprint(1)\n```"),
        ('{"a": 1', '{"a": 1'),
        ("[NaN]", [None]),
        ("[" * 100_000, "[" * 100_000),
        ("[" * 200 + "]" * 200, "[" * 200 + "]" * 200),
        ("42", "42"),
        ("", ""),
        (b"bytes \xff", "bytes \N{REPLACEMENT CHARACTER}"),
        ({"at": NOW}, {"at": "2024-02-29T12:00:00+00:00"}),
        (None, None),
    ],
)
def test_responses_for_storage(response: Any, stored: Any) -> None:
    """What a model says as JSON is JSON, anything else its text."""
    assert db.format_response(response) == stored


def test_a_response_can_be_cut() -> None:
    """Only text."""
    assert db.format_response("abcdef", max_length=3) == "abc"
    assert db.format_response('{"a": "bcdef"}', max_length=3) == {"a": "bcdef"}


async def test_what_is_formatted_can_be_stored(empty_database: Settings) -> None:
    """In the tables for it, and comes back the same."""
    await db.ensure_public_schema()
    variables = db.format_variable({"a\0": {"when": NOW, "all": {1, 2}, "half": "\ud800", "no": math.nan}})
    response = db.format_response('```json\n{"answer": "x\\u0000y"}\n```')
    row = await repository.insert("llm_usage", {"model": "m", "variables": variables, "response": response})
    assert (row["variables"], row["response"]) == (variables, {"answer": "xy"})
