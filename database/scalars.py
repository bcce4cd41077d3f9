"""
How single Python values become what a column takes: numbers, texts, bytes, dates and times, addresses.

What coerces returns what is sent, or raises `UnfitError`. A `Fit` is true of a list of values only if coercing would
leave each as it is; it is far quicker than asking one by one.
"""

from __future__ import annotations

import enum
import math
import operator
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from operator import attrgetter
from typing import Any
from uuid import UUID

from asyncpg.pgproto import pgproto
from pydantic import TypeAdapter, ValidationError

Coerce = Callable[[Any], Any]
Fit = Callable[[list[Any]], bool]

HALF, SINGLE = 65_504.0, 3.4028234663852886e38
DOUBLE = 1.7976931348623157e308


class UnfitError(ValueError):
    """A value that its type cannot take; the text says why, and nothing of the value."""


def kind_of(value: object) -> str:
    """What *value* is, for a message that must not show it."""
    return type(value).__name__


# --- numbers


def integers(bits: int) -> Coerce:
    """What takes integers of so many *bits*."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def coerce(value: Any) -> Any:
        if type(value) is not int:
            if isinstance(value, bool) or not hasattr(value, "__index__"):
                raise UnfitError(f"needs an int, not {kind_of(value)}")
            value = operator.index(value)
        if not low <= value <= high:
            raise UnfitError(f"holds integers from {low} to {high}; this one is out of range")
        return value

    return coerce


def to_object_id(value: Any) -> int:
    """An object id of PostgreSQL."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise UnfitError("needs an int from 0 to 4294967295")
    return value


def floats(limit: float) -> Coerce:
    """What takes numbers up to *limit*, infinity and NaN."""

    def coerce(value: Any) -> float:
        if isinstance(value, bool | str | bytes | bytearray) or not hasattr(value, "__float__"):
            raise UnfitError(f"needs a float, not {kind_of(value)}")
        try:
            number = float(value)
        except (OverflowError, ValueError, TypeError) as exc:
            raise UnfitError("holds no number that is so large") from exc
        if math.isfinite(number) and abs(number) > limit:
            raise UnfitError("holds no number that is so large")
        return number

    return coerce


def numerics(modifier: int) -> Coerce:
    """What takes decimals; *modifier* holds precision and scale, or is negative."""
    precision, scale = ((modifier - 4) >> 16 & 0xFFFF, (modifier - 4) & 0x7FF) if modifier >= 0 else (0, 0)
    scale = (scale ^ 1024) - 1024  # 11 bits with a sign
    digits = precision - scale if precision else 131_072
    # from here on it is rounded to a number with one digit more; comparisons of Decimal are exact
    limit = Decimal(f"{'9' * precision}5E{-scale - 1}") if precision else Decimal(f"1E{digits}")

    def coerce(value: Any) -> Decimal:
        if not isinstance(value, int | float | str | Decimal) and hasattr(value, "__index__"):
            value = operator.index(value)  # of numpy's integers
        if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
            raise UnfitError(f"needs a Decimal, not {kind_of(value)}")
        try:
            number = Decimal(float.__repr__(value) if isinstance(value, float) else value)
        except (InvalidOperation, ValueError) as exc:
            raise UnfitError("needs a Decimal, or its text") from exc
        if number.is_finite():
            if number.copy_abs() >= limit:
                raise UnfitError(f"holds numbers of up to {digits} digits before the point; this one has more")
            if int(number.as_tuple().exponent) < -16_383:
                raise UnfitError("holds numbers of up to 16383 digits behind the point; this one has more")
        elif number.is_snan() or (precision and number.is_infinite()):
            raise UnfitError("does not hold infinity or a signalling NaN")
        return number

    return coerce


def to_bool(value: Any) -> bool:
    """True or False, also of numpy's."""
    if isinstance(value, bool):
        return value
    if kind_of(value) == "bool_" or (type(value).__module__ == "numpy" and kind_of(value) == "bool"):
        return bool(value)
    raise UnfitError(f"needs a bool, not {kind_of(value)}")


def all_integers(bits: int) -> Fit:
    """What is true of integers of so many *bits*."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return lambda values: set(map(type, values)) == {int} and low <= min(values) and max(values) <= high


def all_uuids(values: list[Any]) -> bool:
    """True of UUIDs."""
    return set(map(type, values)) <= {UUID, pgproto.UUID}


def all_of(kind: type) -> Fit:
    """What is true of objects of just that *kind*."""
    return lambda values: set(map(type, values)) == {kind}


# --- text and bytes


def all_texts(limit: int | None) -> Fit:
    """What is true of texts of up to *limit* characters that PostgreSQL can store."""

    def fit(values: list[Any]) -> bool:
        if set(map(type, values)) != {str} or (limit is not None and max(map(len, values)) > limit):
            return False
        joined = "".join(values)
        if "\0" in joined:
            return False
        try:
            return joined.isascii() or bool(joined.encode())
        except UnicodeEncodeError:
            return False

    return fit


def check_text(value: str) -> str:
    """*value*; raises `UnfitError` where PostgreSQL cannot store it."""
    if "\0" in value:
        raise UnfitError("cannot hold a text with a NUL character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise UnfitError("cannot hold a text with a lone surrogate") from exc
    return value


def to_name(value: Any) -> str:
    """A text for a column of type name."""
    text: str = texts(None)(value)
    if len(text.encode()) > 63:  # the server would cut it off and say nothing
        raise UnfitError("holds texts of up to 63 bytes; this one has more")
    return text


def texts(limit: int | None) -> Coerce:
    """What takes texts of up to *limit* characters."""

    def coerce(value: Any) -> str:
        if not isinstance(value, str):
            if isinstance(value, enum.Enum):
                value = value.value
            if isinstance(value, UUID):
                value = str(value)
            if not isinstance(value, str):
                raise UnfitError(f"needs a str, not {kind_of(value)}")
        if limit is not None and len(value) > limit and value[limit:].strip(" "):
            raise UnfitError(f"holds texts of up to {limit} characters; this one has more")
        return check_text(value)

    return coerce


def enums(labels: tuple[str, ...]) -> Coerce:
    """What takes one of *labels*, or a member of an Enum that stands for it."""
    known = frozenset(labels)

    def coerce(value: Any) -> str:
        if isinstance(value, enum.Enum):
            value = value.value if isinstance(value.value, str) else value.name
        if not isinstance(value, str) or value not in known:
            raise UnfitError(f"needs one of {', '.join(labels)}")
        return value

    return coerce


def to_bytes(value: Any) -> bytes:
    """Bytes."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise UnfitError(f"needs bytes, not {kind_of(value)}")


def to_uuid(value: Any) -> UUID:
    """A UUID, also of its text."""
    if isinstance(value, UUID):
        return value
    if isinstance(value, str):
        for parse in (pgproto.UUID, UUID):  # the driver's is quicker, Python's knows more ways to write one
            try:
                return parse(value)
            except ValueError:
                pass
    raise UnfitError("needs a UUID, or its text" + ("" if isinstance(value, str) else f", not {kind_of(value)}"))


# --- dates and times: without a zone, they are taken for UTC


def all_utc(values: list[Any]) -> bool:
    """True of datetimes in UTC."""
    return set(map(type, values)) == {datetime} and set(map(attrgetter("tzinfo"), values)) == {UTC}


def _parsed(parse: Callable[[str], Any], value: str, what: str) -> Any:
    try:
        return parse(value)
    except ValueError as exc:
        raise UnfitError(f"needs {what}, or its text in ISO 8601; this text is none") from exc


def _datetime(value: Any) -> datetime:
    if isinstance(value, str):
        value = _parsed(datetime.fromisoformat, value, "a datetime")
    elif type(value) is date:
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        raise UnfitError(f"needs a datetime, not {kind_of(value)}")
    return value


def to_timestamptz(value: Any) -> datetime:
    """An aware datetime in UTC."""
    moment = _datetime(value)
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    return _in_utc(moment)


def to_timestamp(value: Any) -> datetime:
    """A datetime without a zone, which is UTC."""
    moment = _datetime(value)
    return moment if moment.tzinfo is None else _in_utc(moment).replace(tzinfo=None)


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as exc:
        raise UnfitError("holds times of the years 1 to 9999 in UTC") from exc


def to_date(value: Any) -> date:
    """A date, also of its text."""
    if isinstance(value, str):
        value = _parsed(date.fromisoformat, value, "a date")
    if type(value) is not date:
        raise UnfitError(f"needs a date, not {kind_of(value)}")
    return value


def times(zone: bool) -> Coerce:
    """What takes times of day, with a *zone* or without."""

    def coerce(value: Any) -> time:
        if isinstance(value, str):
            value = _parsed(time.fromisoformat, value, "a time")
        if not isinstance(value, time):
            raise UnfitError(f"needs a time, not {kind_of(value)}")
        if zone:
            return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        if value.tzinfo is not None:
            raise UnfitError("holds times without a zone")
        return value

    return coerce


_durations: TypeAdapter[timedelta] = TypeAdapter(timedelta)


def to_interval(value: Any) -> timedelta:
    """A timedelta, also of its text."""
    if isinstance(value, str):
        try:
            return _durations.validate_python(value)
        except ValidationError as exc:
            raise UnfitError("needs a timedelta, or its text in ISO 8601; this text is none") from exc
    if not isinstance(value, timedelta):
        raise UnfitError(f"needs a timedelta, not {kind_of(value)}")
    return value


# --- networks


def networks(parse: Callable[[Any], Any], what: str) -> Coerce:
    """What takes addresses or networks, as *parse* makes them."""

    def coerce(value: Any) -> Any:
        if isinstance(value, bool | int | float | bytes):
            raise UnfitError(f"needs {what}, not {kind_of(value)}")
        try:
            network = parse(value if isinstance(value, str) else str(value))
        except ValueError as exc:
            raise UnfitError(f"needs {what}, or its text") from exc
        if getattr(network, "scope_id", None):
            raise UnfitError("holds no address with a zone")
        return network

    return coerce
