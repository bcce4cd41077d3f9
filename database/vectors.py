"""Vectors of pgvector (https://github.com/pgvector/pgvector): lists of float."""

from __future__ import annotations

from typing import Any

from .codecs import decode_json
from .scalars import SINGLE, Coerce, UnfitError, kind_of


def _numbers(value: Any, dimensions: int, limit: float) -> list[float]:
    for way in ("tolist", "to_list"):  # numpy, pgvector
        if hasattr(value, way):
            value = getattr(value, way)()
            break
    if not isinstance(value, list | tuple):
        raise UnfitError(f"needs a list of float or an array of numpy, not {kind_of(value)}")
    try:
        numbers = [float(number) for number in value]
    except (TypeError, ValueError, OverflowError) as exc:
        raise UnfitError("needs a list of float") from exc
    if not numbers:
        raise UnfitError("needs at least one dimension")
    if dimensions > 0 and len(numbers) != dimensions:
        raise UnfitError(f"has {dimensions} dimensions, not {len(numbers)}")
    if not all(-limit <= number <= limit for number in numbers):
        raise UnfitError("holds finite numbers only, none of them too large")
    return numbers


def vectors(dimensions: int, limit: float) -> Coerce:
    """What takes lists of float, as pgvector writes them; *dimensions* below 1: any number."""

    def coerce(value: Any) -> str:
        return f"[{','.join(map(repr, _numbers(value, dimensions, limit)))}]"

    return coerce


def sparse_vectors(dimensions: int) -> Coerce:
    """As `vectors`, for those of which most is 0."""

    def coerce(value: Any) -> str:
        numbers = _numbers(value, dimensions, SINGLE)
        entries = ",".join(f"{number}:{entry!r}" for number, entry in enumerate(numbers, 1) if entry)
        return f"{{{entries}}}/{len(numbers)}"

    return coerce


def read_sparse_vector(text: str) -> list[float]:
    """A sparse vector as PostgreSQL writes it, `{1:1.5,3:2}/5`, as a list."""
    entries, _, length = text.partition("/")
    numbers = [0.0] * int(length)
    for entry in filter(None, entries[1:-1].split(",")):
        position, _, number = entry.partition(":")
        numbers[int(position) - 1] = float(number)
    return numbers


def read_vector(text: str) -> list[float]:
    """A vector as PostgreSQL writes it, as a list."""
    return [float(number) for number in decode_json(text)]
