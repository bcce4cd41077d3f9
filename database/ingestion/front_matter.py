"""
Front matter as JSON: YAML from strangers, read in bounded time and memory.

Needs PyYAML (the extra `ingestion`): import this module only where there is front matter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import date
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

MAX_DEPTH = 32
MAX_VALUES = 10_000  # with aliases expanded, as JSON has none
_LONGEST_NUMBER = 400  # characters

# libyaml where PyYAML was built with it: ten times as fast
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"
_TOO_MANY = f"has more than {MAX_VALUES:,} values"
_TOO_DEEP = f"is nested more than {MAX_DEPTH} deep"


class FrontMatterError(Exception):
    """What is wrong with a front matter ("is not valid YAML in line 3"), without its content."""


def read_front_matter(block: str) -> tuple[dict[str, Any], str | None] | None:
    """
    The mapping in the YAML *block* as JSON, and the text under its key `title` as it is written.

    Dates become ISO 8601 text; NaN, infinities, and what is not the number or the date that it looks like are text.
    Keys are as they are written, a merge key (`<<`) and aliases are resolved, and tags of unknown types are ignored.
    None where there is something else than a mapping; raises `FrontMatterError` where there is no YAML or too much.
    """
    try:
        if not _is_small(block):
            _check_size(yaml.parse(block, Loader=_Loader))
        root = yaml.compose(block, Loader=_Loader)
    except yaml.MarkedYAMLError as exc:
        problem = re.sub(r"\s*'.*", "", exc.problem or "", flags=re.DOTALL)  # what stands in quotes is content
        line = f" in line {exc.problem_mark.line + 2}" if exc.problem_mark else ""
        raise FrontMatterError(f"is not valid YAML{line}: {problem}") from exc
    except (yaml.YAMLError, UnicodeEncodeError) as exc:
        raise FrontMatterError("holds characters that YAML does not allow") from exc
    if root is None:
        return {}, None
    if not isinstance(root, yaml.MappingNode):
        return None
    metadata = _JSON().mapping(root, 1)
    titles = [value for key, value in root.value if key.value == "title" and isinstance(value, yaml.ScalarNode)]
    return metadata, titles[-1].value if titles and titles[-1].tag != _NULL else None


def _is_small(block: str) -> bool:
    """Whether *block* can be neither too deep nor too much: most are so short, and need not be read twice."""
    return len(block) < MAX_VALUES and sum(map(block.count, "[{-?:!&\n")) < MAX_DEPTH  # one at least a level


def _check_size(events: Iterable[yaml.Event]) -> None:
    """Refuse what is too deep before it is composed: the composer of libyaml recurses until the stack overflows."""
    depth = 0
    for count, event in enumerate(events):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise FrontMatterError(_TOO_DEEP)
        if count > 3 * MAX_VALUES:
            raise FrontMatterError(_TOO_MANY)


class _JSON:
    """One conversion of YAML's nodes, which counts the values: three aliases to three aliases to … grow fast."""

    def __init__(self) -> None:
        self._left = MAX_VALUES
        self._constructor = SafeConstructor()

    def value(self, node: yaml.Node, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise FrontMatterError(_TOO_MANY)
        if depth > MAX_DEPTH:  # an alias to what it stands in
            raise FrontMatterError(_TOO_DEEP)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, depth + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, depth + 1) for item in node.value]
        return self._scalar(node)

    def mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise FrontMatterError("has a key that is not a plain text")
            if key.tag == _MERGE:
                found = self.value(value, depth)
                for mapping in found if isinstance(found, list) else [found]:
                    if not isinstance(mapping, dict):
                        raise FrontMatterError("merges (<<) something that is not a mapping")
                    merged = mapping | merged
            else:
                own[_text(key)] = self.value(value, depth)
        return merged | own

    def _scalar(self, node: yaml.Node) -> Any:
        text = _text(node)
        if node.tag == "tag:yaml.org,2002:str" or len(text) > _LONGEST_NUMBER:
            return text
        try:
            value = self._constructor.construct_object(node)
        except (ValueError, ArithmeticError, LookupError, AttributeError, yaml.YAMLError):
            return text  # 2024-13-45, `!!int x`, an unknown tag
        if isinstance(value, float) and not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        if isinstance(value, date):  # a datetime is one
            return value.isoformat()
        return value if value is None or isinstance(value, bool | int | float) else text


def _text(node: yaml.Node) -> str:
    text = str(node.value)
    if "\0" in text or not (text.isascii() or text.isprintable() or _is_unicode(text)):
        raise FrontMatterError("holds a character that PostgreSQL cannot store (an escape such as \\0)")
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
