"""Rows on their way in and out: dicts, models and dataclasses become columns, records become dicts or models."""

from __future__ import annotations

import types
from collections.abc import Mapping
from datetime import date, datetime, time
from functools import lru_cache
from typing import Any, Union, cast, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, ValidationError

from .columns import Table
from .connect_db import Record
from .exceptions import InvalidDataError
from .query import Built
from .values import fields_of, kind_of


def read_row(values: object, *, partial: bool = False) -> Mapping[str, Any]:
    """
    The values of a row by name: of a dict, a model or a dataclass.

    Of a model, what was never set and is None is left to the database (its id, its defaults); with *partial*, all that
    was never set. Raises `InvalidDataError` for anything else.
    """
    if isinstance(values, Mapping):
        return values
    fields = fields_of(values)
    if fields is None:
        raise InvalidDataError(f"a row is a dict, a pydantic model or a dataclass, not {kind_of(values)}")
    if isinstance(values, BaseModel):
        given = values.model_fields_set
        return {name: value for name, value in fields.items() if name in given or not (partial or value is None)}
    return fields


def to_model(model: type[Any] | None, values: dict[str, Any], table: str) -> Any:
    """
    *values* as an instance of *model*; as they are where that is None.

    Fields that are text get dates and times in ISO 8601. Raises `InvalidDataError`, which names the fields that do not
    fit.
    """
    if model is None:
        return values
    if not isinstance(cast("object", model), type) or not issubclass(model, BaseModel):
        raise InvalidDataError("model= is a class of pydantic's BaseModel")
    for name in _texts(model):
        value = values.get(name)
        if value is not None and not isinstance(value, str):
            values[name] = value.isoformat() if isinstance(value, datetime | date | time) else str(value)
    try:
        return model.model_validate(values, by_alias=True, by_name=True)
    except ValidationError as exc:
        fields = ", ".join(f"{(*each['loc'], 'the whole')[0]} ({each['type']})" for each in exc.errors())
    # not from the other one, which quotes the row; and there is no row left in the frames
    values.clear()
    value = None
    raise InvalidDataError(f"a row of table {table!r} does not fit {model.__name__}: {fields}")


@lru_cache(maxsize=1_000)
def _texts(model: type[BaseModel]) -> tuple[str, ...]:
    """The fields of *model* that hold text and nothing else, or None."""
    found = []
    for name, field in model.model_fields.items():
        annotation = field.annotation
        parts = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
        if str in parts and set(parts) <= {str, type(None)}:
            found.append(name)
    return tuple(found)


def read_upserted(
    built: Built, known: Table, model: type[Any] | None, own_id: UUID | None, row: Record
) -> dict[str, Any]:
    """
    A row of the table *known* that *built* has upserted, and whether it is new; where the key is made here, that is
    whether it has *own_id*, which is true also where the answer to a first attempt was lost.
    """
    values = built.read(row)
    name = "inserted_" if "inserted" in known.columns else "inserted"
    if model is None or name in getattr(model, "model_fields", {}):
        values[name] = row["__inserted"] if own_id is None else values[known.primary_key[0]] == str(own_id)
    return values
