"""Values that look as if somebody had entered them: by the type of a column, its name, and what its checks compare."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg

from ..exceptions import InvalidDataError
from .mock_patterns import matching
from .mock_tables import Check, MockColumn

Make = Callable[[], Any]

_POOL = 250  # of each kind of text, for Faker makes some ten thousand a second
_ROOMY = 20  # characters
# Of two years; fixed, so that a seed makes the same rows on another day.
_FIRST_SECOND = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
_TEXTS = frozenset({"text", "varchar", "bpchar", "citext", "name", "char"})
_INTEGERS = {"int2": 2**15 - 1, "int4": 2**31 - 1, "int8": 2**63 - 1}
# The first that is found in a column's name says what is in it, by the names of Faker's providers.
_BY_NAME = [
    (re.compile(pattern), provider)
    for pattern, provider in (
        (r"e_?mail", "email"),
        (r"first_?name|given_?name", "first_name"),
        (r"last_?name|surname|family_?name", "last_name"),
        (r"user_?name|login|nick|handle", "user_name"),
        (r"file|path", "file_path"),
        (r"company|organi[sz]ation|employer", "company"),
        (r"city|town", "city"),
        (r"country_?code", "country_code"),
        (r"country", "country"),
        (r"street|address", "street_address"),
        (r"zip|postal|post_?code", "postcode"),
        (r"phone|mobile|fax", "phone_number"),
        (r"url|website|link|homepage", "url"),
        (r"domain|host", "domain_name"),
        (r"^ip|ip_?addr", "ipv4"),
        (r"job|profession|occupation|position", "job"),
        (r"colou?r", "color_name"),
        (r"currency", "currency_code"),
        (r"lang|locale", "language_code"),
        (r"password|hash|token|secret|checksum|digest", "sha1"),
        (r"user_?agent", "user_agent"),
        (r"mime|content_?type|media", "mime_type"),
        (r"slug|code|sku|key|ident|number", "slug"),
        (r"title|subject|headline|label|caption", "sentence"),
        (r"name|author|person|owner|contact", "name"),
        (r"description|summary|comment|notes?$|text|content|body|message|question|answer|bio|about", "paragraph"),
    )
]
_WHOLE_NUMBERS = [
    (re.compile(r"\bage$|_age$|^age"), 18, 90),
    (re.compile(r"year"), 1990, 2025),
    (re.compile(r"month"), 1, 12),
    (re.compile(r"percent|ratio|rate|score|rating"), 0, 100),
    (re.compile(r"count|quantity|qty|stock|amount|number_of"), 0, 100),
]


class MockValues:
    """Values that follow from *seed*; None: other ones each time."""

    def __init__(self, seed: int | str | None) -> None:
        try:
            from faker import Faker
        except ModuleNotFoundError as exc:
            raise ImportError("mock rows need Faker: pip install 'pgdatabase[testing]'") from exc
        self.random = random.Random(seed)  # noqa: S311 (made-up rows guard nothing)
        self._faker = Faker("en_US")
        self._faker.seed_instance(self.random.getrandbits(64))
        self._pools: dict[str, list[str]] = {}

    def one_of(self, values: Sequence[Any]) -> Make:
        """What makes one of *values*; several times as fast as `Random.choice`."""
        chance, number = self.random.random, len(values)
        return lambda: values[int(chance() * number)]

    # -- texts

    def _pool(self, provider: str) -> list[str]:
        pool = self._pools.get(provider)
        if pool is None:
            make = getattr(self._faker, provider)
            if provider == "sentence":
                made = [str(make(nb_words=4)).rstrip(".") for _ in range(_POOL)]
            else:
                made = [str(make()).replace("\n", " ") for _ in range(_POOL)]
            pool = self._pools[provider] = list(dict.fromkeys(made))
        return pool

    def _text(self, name: str, length: int | None) -> Make:
        provider = next((provider for pattern, provider in _BY_NAME if pattern.search(name.lower())), "word")
        pool = self._pool(provider)
        if length is not None:
            fitting = [text for text in pool if len(text) <= length]
            pool = fitting or [text[:length].rstrip() or "x" * length for text in pool]
        return self.one_of(pool)

    # -- other types

    def maker(self, column: MockColumn) -> Make:
        """What makes a value for *column*; raises `InvalidDataError` where nothing is known of its type."""
        if column.element is None:
            return self._one(column, column.type)
        one = self._one(column, column.element)
        return lambda: [one() for _ in range(self.random.randint(1, 3))]

    def _one(self, column: MockColumn, kind: str) -> Make:
        number = self.random
        if column.labels:
            return self.one_of(column.labels)
        if kind in _TEXTS:
            return self._text(column.name, 1 if kind == "char" else column.length)
        if kind in _INTEGERS:
            low, high = next(
                ((low, high) for pattern, low, high in _WHOLE_NUMBERS if pattern.search(column.name.lower())), (1, 1000)
            )
            return self.one_of(range(low, high + 1))
        if kind == "numeric":
            return self._numeric(column.modifier)
        if kind in ("vector", "halfvec"):
            size = max(column.modifier, 1) if column.modifier > 0 else 3
            return lambda: [round(number.uniform(-1, 1), 4) for _ in range(size)]
        known: dict[str, Make] = {
            "bool": lambda: number.random() < 0.5,
            "float4": lambda: round(number.uniform(0, 1000), 2),
            "float8": lambda: round(number.uniform(0, 1000), 4),
            "money": lambda: f"{number.uniform(1, 500):.2f}",
            "uuid": lambda: UUID(int=number.getrandbits(128), version=4),
            "date": lambda: self._moment().date(),
            "timestamp": lambda: self._moment().replace(tzinfo=None),
            "timestamptz": self._moment,
            "time": lambda: self._moment().time(),
            "timetz": lambda: self._moment().timetz(),
            "interval": lambda: timedelta(minutes=number.randint(1, 10_000)),
            "json": self._object,
            "jsonb": self._object,
            "bytea": lambda: number.randbytes(16),
            "inet": lambda: f"192.0.2.{number.randint(1, 254)}",
            "cidr": lambda: f"198.51.{number.randint(0, 255)}.0/24",
            "macaddr": lambda: ":".join(f"{number.randint(0, 255):02x}" for _ in range(6)),
            "xml": lambda: f"<p>{number.choice(self._pool('word'))}</p>",
            "tsvector": lambda: " ".join(number.sample(self._pool("word"), 3)),
            "ltree": lambda: ".".join(number.sample(self._pool("word"), 2)),
            "point": lambda: asyncpg.Point(round(number.uniform(-90, 90), 4), round(number.uniform(-90, 90), 4)),
            "int4range": lambda: asyncpg.Range(low := number.randint(0, 500), low + number.randint(1, 500)),
            "int8range": lambda: asyncpg.Range(low := number.randint(0, 500), low + number.randint(1, 500)),
            "daterange": lambda: asyncpg.Range(day := self._moment().date(), day + timedelta(number.randint(1, 90))),
            "tstzrange": lambda: asyncpg.Range(start := self._moment(), start + timedelta(number.randint(1, 90))),
        }
        if kind not in known:
            raise InvalidDataError(
                f"there are no made-up values of the type {column.declared} of column {column.name!r}: "
                "give one in overrides"
            )
        return known[kind]

    def _numeric(self, modifier: int) -> Make:
        precision, scale = _digits(modifier)
        highest = 10 ** max(1, min(precision, scale + 3)) - 1
        return lambda: Decimal(self.random.randint(0, highest)).scaleb(-scale)

    def _moment(self) -> datetime:
        return datetime.fromtimestamp(_FIRST_SECOND + int(self.random.random() * 63_072_000), UTC)

    def _object(self) -> dict[str, Any]:
        words = self._pool("word")
        return {self.random.choice(words): self.random.choice(words), "number": self.random.randint(1, 100)}

    # -- values that checks may be content with

    def hinted(self, column: MockColumn, checks: Sequence[Check], make: Make) -> Make:
        """As *make*, for a column that *checks* compare with something: mostly that, or what is near it."""
        ways = [way for check in checks for way in self._ways(column, check.expression)]
        if not ways:
            return make
        # what several columns are to be together is found by trying, rather than near the numbers that are compared
        often = 0.9 if all(check.is_of_each for check in checks) else 0.3
        chance, number = self.random.random, len(ways)
        return lambda: ways[int(chance() * number)]() if chance() < often else make()

    def _ways(self, column: MockColumn, expression: str) -> list[Make]:
        kind = column.type
        literals = [text.replace("''", "'") for text in re.findall(r"'((?:[^']|'')*)'", expression)]
        if kind in _TEXTS:
            return self._text_ways(column, expression, literals)
        if kind in _INTEGERS or kind in ("numeric", "float4", "float8"):
            plain = re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.])", expression)
            numbers = sorted({Decimal(text) for text in [*plain, *literals] if re.fullmatch(r"-?\d+(\.\d+)?", text)})
            return [self._near(kind, numbers)] if numbers else []
        if kind in ("date", "timestamp", "timestamptz"):
            return self._time_ways(kind, literals)
        return []

    def _text_ways(self, column: MockColumn, expression: str, literals: list[str]) -> list[Make]:
        ways: list[Make] = []
        patterns = re.findall(r"~\*? '((?:[^']|'')*)'", expression)
        likes = re.findall(r"~~\*? '((?:[^']|'')*)'", expression)
        for pattern in set(patterns) - set(likes):
            make = matching(pattern.replace("''", "'"), self.random)
            if make is not None:
                ways.append(make)
        ways += [partial(self._like, like) for like in likes]
        values = [text for text in literals if text not in patterns and text not in likes]
        if values:
            ways.append(self.one_of(values))
        if "length" in expression:
            numbers = [int(text) for text in re.findall(r"\b\d{1,5}\b", expression)]
            if numbers:
                ways.append(partial(self._of_length, numbers, column.length or max(numbers) + 20))
        if re.search(r"\b(?:upper|lower)\(", expression):
            change = str.upper if "upper(" in expression else str.lower
            make = self._text(column.name, column.length)
            ways.append(lambda: change(make()))
        return ways

    def _like(self, pattern: str) -> str:
        letters = string.ascii_lowercase
        found = re.sub("%", lambda _: "".join(self.random.choices(letters, k=5)), pattern)
        return re.sub("_", lambda _: self.random.choice(letters), found)

    def _of_length(self, numbers: list[int], longest: int) -> str:
        near = self.random.choice(numbers) + self.random.choice((-1, 0, 0, 1, 3, 8))
        return "".join(self.random.choices(string.ascii_lowercase, k=max(0, min(near, longest))))

    def _near(self, kind: str, numbers: list[Decimal]) -> Make:
        """What makes one of *numbers*, or one beside them, or between the least and the greatest."""
        chance, low, high = self.random.random, float(numbers[0]), float(numbers[-1])
        if low == high:
            low, high = low - 100, high + 100
        if kind in _INTEGERS:
            limit = _INTEGERS[kind]
            few = [int(number) + step for number in numbers for step in (-1, 0, 1)]
            exact = self.one_of([number for number in few if -limit <= number <= limit] or [0])
            least, most = max(-limit, int(low)), min(limit, int(high))
            return lambda: exact() if chance() < 0.3 else least + int(chance() * (most - least + 1))
        if kind == "numeric":
            exact = self.one_of(numbers)
            return lambda: exact() if chance() < 0.3 else Decimal(f"{low + chance() * (high - low):.2f}")
        exact = self.one_of([float(number) for number in numbers])
        return lambda: exact() if chance() < 0.3 else round(low + chance() * (high - low), 2)

    def _time_ways(self, kind: str, literals: list[str]) -> list[Make]:
        moments = []
        for text in literals:
            try:
                moments.append(datetime.fromisoformat(text).replace(tzinfo=UTC))
            except ValueError:
                continue

        def near() -> date | datetime:
            moment = self.random.choice(moments) + timedelta(days=self.random.randint(-400, 400))
            return moment.date() if kind == "date" else moment.replace(tzinfo=None) if kind == "timestamp" else moment

        return [near] if moments else []


def _digits(modifier: int) -> tuple[int, int]:
    """How many digits a numeric has, and how many of them behind the point; these may be more, or fewer than none."""
    if modifier < 0:
        return 1000, 2
    return (modifier - 4) >> 16 & 0xFFFF, (((modifier - 4) & 0x7FF) ^ 0x400) - 0x400


def largest_number(column: MockColumn) -> int:
    """The largest whole number that a column of numbers takes."""
    if column.type in _INTEGERS:
        return _INTEGERS[column.type]
    precision, scale = _digits(column.modifier)
    return int(10 ** max(0, precision - scale)) - 1


def distinct(column: MockColumn, value: Any, number: int) -> Any:
    """*value*, changed so that no two numbers give the same; None where the type does not allow it."""
    kind = column.type
    if kind in _TEXTS and isinstance(value, str):
        # hexadecimal is made quicker, but longer
        mark = f"{number:x}" if column.length is None or column.length > _ROOMY else _short(number)
        if column.length is not None and len(mark) > column.length:
            return None
        if "@" in value:
            local, _, domain = value.partition("@")
            room = len(value) if column.length is None else column.length - len(mark) - len(domain) - 2
            if room >= 1:
                return f"{local[:room]}-{mark}@{domain}"
        if column.length is not None and column.length <= len(mark) + 1:
            return mark.rjust(column.length, "0")
        room = len(value) if column.length is None else column.length - len(mark) - 1
        return f"{value[:room]}-{mark}"
    return None


def _short(number: int) -> str:
    text = ""
    while number or not text:
        number, digit = divmod(number, 36)
        text = (string.digits + string.ascii_lowercase)[digit] + text
    return text


def as_json(value: Any) -> Any:
    """What stands for *value* in JSON that the server reads."""
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, timedelta):
        return f"{value.total_seconds()} seconds"
    if isinstance(value, asyncpg.Range):
        return f"[{value.lower},{value.upper})"
    if isinstance(value, asyncpg.Point):
        return f"({value.x},{value.y})"
    if isinstance(value, time):
        return value.isoformat()
    return value
