"""Values for people and for storage: one line of a log, and what jsonb can hold."""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from datetime import timedelta
from enum import Enum
from itertools import islice
from typing import Any

from .codecs import encode_objects
from .values import fields_of

_SECRET = re.compile(
    r"pass(?:word|wd|phrase)|secret|token$|api_?key|authorization|credential|private_?key", re.IGNORECASE
)
_HIDDEN = "***"
_BREAKS = re.compile("[\x7f-\x9f\u2028\u2029]")  # what JSON leaves as it is, and a terminal or a log obeys
_LONGEST_INT = 1_000  # bits
_DEPTH = 100  # of what is stored; no parser of JSON minds so much
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_FENCED = re.compile(r"```[\w+-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)


def format_for_log(value: Any, *, max_length: int = 200, max_items: int = 10, max_depth: int = 4) -> str:
    """
    *value* as one line of JSON-like text for a log; never raises.

    Texts are cut at *max_length* characters, lists, sets and dicts at *max_items* entries, nesting at *max_depth*, each
    with "…" and how much is missing. Models, dataclasses, dates, UUIDs and the like are as in `format_variable`; what
    JSON has nothing for is its type's name. What stands under a name such as password or api_key is hidden.
    """
    text = json.dumps(_shorten(value, max_length, max_items, max_depth), ensure_ascii=False)
    return _BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _shorten(value: Any, length: int, items: int, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if value.bit_length() <= _LONGEST_INT else f"<int of {value.bit_length():,} bits>"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        text = _clean(value)
        return text if len(text) <= length else f"{text[:length]}… (+{len(text) - length:,} characters)"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(bytes(value)):,} bytes>"
    try:
        fields = fields_of(value)
        if fields is not None:
            return _shorten_fields(fields, length, items, depth)
        if isinstance(value, list | tuple | set | frozenset):
            return _shorten_list(value, length, items, depth)
        return _shorten(json.loads(encode_objects(value)), length, items, depth)
    except Exception:  # a log line must not be what fails
        return f"<{type(value).__name__}>"


def _shorten_fields(fields: Mapping[Any, Any], length: int, items: int, depth: int) -> Any:
    if depth <= 0 and fields:
        return f"{{… ({len(fields):,})}}"
    shown: dict[str, Any] = {}
    for name, each in islice(fields.items(), items):
        hidden = _SECRET.search(str(name)) and each is not None
        shown[_clean(str(name))] = _HIDDEN if hidden else _shorten(each, length, items, depth - 1)
    if len(fields) > items:
        shown["…"] = f"+{len(fields) - items:,}"
    return shown


def _shorten_list(values: Any, length: int, items: int, depth: int) -> Any:
    if depth <= 0 and values:
        return f"[… ({len(values):,})]"
    shown = [_shorten(each, length, items, depth - 1) for each in islice(values, items)]
    return [*shown, f"… (+{len(values) - items:,})"] if len(values) > items else shown


def format_variable(value: Any) -> Any:
    """
    *value* as jsonb can store it, made of dicts, lists, str, int, float, bool and None.

    Models and dataclasses become dicts, sets lists, dates and times ISO 8601, UUID, Decimal and IP addresses text,
    intervals seconds, bytes base64; NaN and infinity None. NUL characters are left out, and lone surrogates replaced.
    A dict of variables is formatted as a whole. Raises `ValueError` where it is nested too deeply or holds itself, and
    `TypeError` for what nothing in JSON stands for.
    """
    return _format(value, _DEPTH)


def _format(value: Any, depth: int) -> Any:
    if depth <= 0:
        raise ValueError(f"nested more than {_DEPTH} levels deep, or without end")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _format(value.value, depth - 1)
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes | bytearray | memoryview):
        return b64encode(bytes(value)).decode()
    if isinstance(value, timedelta):
        return value.total_seconds()
    fields = fields_of(value)
    if fields is not None:
        return {_clean(_name(name)): _format(each, depth - 1) for name, each in fields.items()}
    if isinstance(value, list | tuple):
        return [_format(each, depth - 1) for each in value]
    if isinstance(value, set | frozenset):
        return [_format(each, depth - 1) for each in _sorted(value)]
    if hasattr(value, "tolist"):  # numpy
        return _format(value.tolist(), depth - 1)
    return json.loads(encode_objects(value))


def _name(key: Any) -> str:
    formatted = format_variable(key)
    if isinstance(formatted, list | dict):
        raise TypeError(f"a {type(key).__name__} is no name of a field in JSON")
    return formatted if isinstance(formatted, str) else json.dumps(formatted)


def _sorted(values: Iterable[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:
        return list(values)


def format_response(response: Any, *, max_length: int | None = None) -> Any:
    r"""
    The answer of a language model as jsonb can store it: what it says as JSON, else its text.

    Of a str that is a JSON object or array, also inside a Markdown fence, the dict or list; of any other the text
    without white space around it, with `\n` for line ends, cut at *max_length* characters. Anything else is as in
    `format_variable`.
    """
    if isinstance(response, bytes | bytearray):
        response = bytes(response).decode(errors="replace")
    if not isinstance(response, str):
        return format_variable(response)
    text = _clean(response).replace("\r\n", "\n").replace("\r", "\n").strip()
    fenced = _FENCED.fullmatch(text)
    parsed = _parse(fenced[1] if fenced else text)
    if parsed is not None:
        return parsed
    return text if max_length is None else text[:max_length]


def _parse(text: str) -> Any:
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return format_variable(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _clean(text: str) -> str:
    """*text* without what PostgreSQL cannot store."""
    if not _UNSTORABLE.search(text):
        return str(text)
    return _UNSTORABLE.sub(lambda found: "" if found[0] == "\0" else "\N{REPLACEMENT CHARACTER}", text)
