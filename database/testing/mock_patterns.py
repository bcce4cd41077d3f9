"""Texts that a regular expression matches."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

_MANY = 6  # where a pattern says "as many as you like", so many more than the least
_CLASSES = {
    "category_digit": string.digits,
    "category_word": string.ascii_letters + string.digits + "_",
    "category_space": " ",
    "category_not_digit": string.ascii_letters,
    "category_not_word": "-",
    "category_not_space": string.ascii_letters + string.digits,
}


def matching(pattern: str, chance: random.Random) -> Callable[[], str] | None:
    """What makes texts that match *pattern*; None where it is beyond what is understood here (look-around)."""
    # PostgreSQL's classes in brackets are no Python
    for name, characters in (
        ("alpha", "a-zA-Z"),
        ("digit", "0-9"),
        ("alnum", "a-zA-Z0-9"),
        ("space", " "),
        ("lower", "a-z"),
        ("upper", "A-Z"),
    ):
        pattern = pattern.replace(f"[:{name}:]", characters)
    try:
        parsed: Any = re._parser.parse(pattern)  # type: ignore[attr-defined]  # what re itself reads patterns with
        _write(parsed, chance, {})
    except (re.error, NotImplementedError, AttributeError, IndexError, RecursionError):
        return None
    return lambda: _write(parsed, chance, {})


def _write(parsed: Sequence[Any], chance: random.Random, groups: dict[int, str]) -> str:
    return "".join([_write_one(str(kind).lower(), value, chance, groups) for kind, value in parsed])


def _write_one(kind: str, value: Any, chance: random.Random, groups: dict[int, str]) -> str:
    if kind == "literal":
        return chr(value)
    if kind == "any":
        return chance.choice(string.ascii_lowercase)
    if kind == "not_literal":
        return "a" if value != ord("a") else "b"
    if kind == "in":
        return chance.choice(_alternatives(value))
    if kind in ("max_repeat", "min_repeat", "possessive_repeat"):
        least, most, part = value
        times = chance.randint(least, min(int(most), least + _MANY))
        return "".join([_write(part, chance, groups) for _ in range(times)])
    if kind == "branch":
        return _write(chance.choice(value[1]), chance, groups)
    if kind == "subpattern":
        text = _write(value[-1], chance, groups)
        if value[0] is not None:
            groups[value[0]] = text
        return text
    if kind == "groupref":
        return groups[value]
    if kind == "at":
        return ""
    raise NotImplementedError(kind)


def _alternatives(members: Sequence[Any]) -> str:
    """The characters of a class in brackets."""
    found = ""
    negated = False
    for kind, value in members:
        name = str(kind).lower()
        if name == "negate":
            negated = True
        elif name == "literal":
            found += chr(value)
        elif name == "range":
            found += "".join(map(chr, range(value[0], min(value[1], value[0] + 200) + 1)))
        elif name == "category":
            found += _CLASSES[str(value).lower()]
        else:
            raise NotImplementedError(name)
    if not negated:
        return found
    return "".join(character for character in string.ascii_letters + string.digits if character not in found)
