"""Front matter becomes JSON, whatever somebody wrote into it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from database.ingestion.front_matter import MAX_DEPTH, FrontMatterError, read_front_matter


def metadata_of(block: str) -> dict[str, Any]:
    found = read_front_matter(block)
    assert found is not None
    return found[0]


def test_values_become_json() -> None:
    """Texts, numbers, truth, nothing, lists and mappings come as Python's own."""
    assert metadata_of("a: text\nb: 1\nc: 1.5\nd: true\ne: null\nf: [1, x]\ng:\n  h: i\nj: ''\n") == {
        "a": "text", "b": 1, "c": 1.5, "d": True, "e": None, "f": [1, "x"], "g": {"h": "i"}, "j": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("2024-01-31", "2024-01-31"),
        ("2024-01-31 10:20:30", "2024-01-31T10:20:30"),
        ("2024-01-31T10:20:30+02:00", "2024-01-31T10:20:30+02:00"),
        ("2024-13-45", "2024-13-45"),
        (".nan", "NaN"),
        (".inf", "Infinity"),
        ("-.inf", "-Infinity"),
        ("1e400", "1e400"),
        ("1.0e+400", "Infinity"),
        ("0x" + "f" * 50_000, "0x" + "f" * 50_000),
        ("9" * 5_000, "9" * 5_000),
        ("1" + ":59" * 10_000, "1" + ":59" * 10_000),
        ("!!int text", "text"),
        ("!!bool perhaps", "perhaps"),
        ("!!timestamp soon", "soon"),
        ("!!binary aGk=", "aGk="),
        ("!custom value", "value"),
        ("!!python/object/apply:os.system [id]", ["id"]),
        ("!!python/name:os.system", ""),
        ("!!set {a, b}", {"a": None, "b": None}),
    ],
)
def test_what_json_does_not_know_becomes_text(written: str, value: object) -> None:
    """Dates become ISO 8601; NaN, broken dates, giant numbers and unknown tags become text; nothing is executed."""
    metadata = metadata_of(f"key: {written}\n")
    assert metadata == {"key": value}
    assert json.loads(json.dumps(metadata, allow_nan=False)) == metadata


def test_keys_are_as_they_are_written() -> None:
    """Numbers, dates and words that YAML takes for something else are the same text as keys."""
    assert metadata_of("2024: a\n1.0: b\nno: c\n~: d\n2024-01-31: e\n") == {
        "2024": "a", "1.0": "b", "no": "c", "~": "d", "2024-01-31": "e",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("block", "title"),
    [
        ("title: A B", "A B"),
        ("title: 3.10", "3.10"),
        ("title: No", "No"),
        ("title: 2024-01-31", "2024-01-31"),
        ("title: null", None),
        ("title:", None),
        ("title: ''", ""),
        ("title: [a]", None),
        ("name: x", None),
        ("# nothing", None),
    ],
)
def test_a_title_is_as_it_is_written(block: str, title: str | None) -> None:
    """A title that looks like a number, a date or a truth value is the text that somebody wrote."""
    found = read_front_matter(block)
    assert found is not None
    assert found[1] == title


def test_aliases_and_merge_keys_are_resolved() -> None:
    """What an alias stands for is in both places; own keys beat merged ones, earlier merged ones beat later ones."""
    assert metadata_of("base: &b {x: 1, y: 2}\nlist: [*b]\nown:\n  <<: *b\n  y: 3\ntwo:\n  <<: [{x: 1}, {x: 2}]\n") == {
        "base": {"x": 1, "y": 2}, "list": [{"x": 1, "y": 2}], "own": {"x": 1, "y": 3}, "two": {"x": 1},
    }  # fmt: skip


BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20))
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 30))


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        (BOMB, "has more than 10,000 values"),
        (MERGE_BOMB, "has more than 10,000 values|is nested more than 32 deep"),
        ("a: &a [*a]", "is nested more than 32 deep"),
        ("a: " + "[" * 60_000, "is nested more than 32 deep"),
        ("a: " + "[" * 30_000 + "]" * 30_000, "is nested more than 32 deep"),
        ("".join(" " * depth + "a:\n" for depth in range(MAX_DEPTH + 2)), "is nested more than 32 deep"),
        ("- " * 30_000, "is nested more than 32 deep"),
        ("-\n" * 32_000, "has more than 10,000 values"),
        ("title: a: b", "is not valid YAML in line 2: mapping values are not allowed"),
        ("a: 1\nb: [", "is not valid YAML in line"),
        ("a: *secret", "is not valid YAML in line 2: found undefined alias$"),
        ("a: 1\n--- b\n", "is not valid YAML in line 3"),
        ("? [a]\n: b", "has a key that is not a plain text"),
        ("<<: text", r"merges \(<<\) something that is not a mapping"),
        ('a: "x\\0y"', "holds a character that PostgreSQL cannot store"),
        ('"x\\0y": a', "holds a character that PostgreSQL cannot store"),
        ('a: "\\ud800"', "is not valid YAML|holds a character that PostgreSQL cannot store"),
        ("a: \x01", "holds characters that YAML does not allow"),
        ("a: \ud800", "holds characters that YAML does not allow|holds a character that PostgreSQL cannot store"),
    ],
)
def test_what_is_wrong_is_said(block: str, problem: str) -> None:
    """Bombs, depth, broken syntax and characters that cannot be stored are refused at once, without the content."""
    with pytest.raises(FrontMatterError, match=problem) as caught:
        read_front_matter(block)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("block", ["text", "- a\n- b", "1", "null", "[a]"])
def test_what_is_no_mapping_is_no_front_matter(block: str) -> None:
    """Text between two thematic breaks is not taken for metadata."""
    assert read_front_matter(block) is None


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.text(), st.text(alphabet="ab:-?*&!<[]{}|>'\"\\#%@ \n\t01.~")))
def test_any_text_gives_json_or_a_problem(block: str) -> None:
    """Whatever stands there, what comes is nothing, a `FrontMatterError`, or metadata that goes through JSON."""
    try:
        found = read_front_matter(block)
    except FrontMatterError:
        return
    if found is not None:
        assert json.loads(json.dumps(found[0], allow_nan=False).encode()) == found[0]
