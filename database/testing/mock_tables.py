"""What the catalog says of a table that rows are to be made up for: types, limits, keys and checks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ..connect_db import Connection, perform
from ..exceptions import RepositoryError
from ..query import quote_identifier
from .foreign_keys import ForeignKey, read_foreign_keys

_BOUNDS = "the bounds of its partitions"
_READ = f"""
    WITH RECURSIVE relation AS (
        SELECT c.oid
          FROM pg_catalog.pg_class AS c
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname = $1::text AND c.relname = $2::text
    ),
    -- what a row has to be so that there is a partition for it
    partitioning (bounds, columns) AS (
        SELECT (SELECT CASE WHEN count(bound) = count(*) THEN string_agg('(' || bound || ')', ' OR ') END
                  FROM pg_partition_tree((SELECT oid FROM relation)) AS part
                 CROSS JOIN LATERAL pg_get_partition_constraintdef(part.relid) AS bound
                 WHERE part.isleaf),
               -- columns of keys that rows are parted by: they depend on their table, here, above, and below
               (SELECT json_agg(DISTINCT a.attname::text)
                  FROM (SELECT relid FROM pg_partition_ancestors((SELECT oid FROM relation)) AS relid
                        UNION
                        SELECT relid FROM pg_partition_tree((SELECT oid FROM relation))) AS part
                  JOIN pg_catalog.pg_partitioned_table AS p ON p.partrelid = part.relid
                  JOIN pg_catalog.pg_depend AS own
                    ON own.objid = part.relid AND own.refobjid = part.relid AND own.objsubid > 0
                   AND own.refobjsubid = 0 AND own.classid = 'pg_class'::regclass AND own.refclassid = own.classid
                  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = own.objid AND a.attnum = own.objsubid
                HAVING bool_or(p.partstrat <> 'h'))
    ),
    -- domains are followed to the type that they stand on
    standing (number, domain, oid, modifier, dimensions, not_null) AS (
        SELECT a.attnum, 0::oid, a.atttypid, a.atttypmod, a.attndims::integer, a.attnotnull
          FROM relation
          JOIN pg_catalog.pg_attribute AS a ON a.attrelid = relation.oid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT s.number, t.oid, t.typbasetype, t.typtypmod, t.typndims, s.not_null OR t.typnotnull
          FROM standing AS s
          JOIN pg_catalog.pg_type AS t ON t.oid = s.oid AND t.typtype = 'd'
    ),
    base AS (
        SELECT s.*
          FROM standing AS s
          JOIN pg_catalog.pg_type AS t ON t.oid = s.oid AND t.typtype <> 'd'
    )
    SELECT json_build_object(
        'columns', (
            SELECT json_agg(json_build_object(
                       'number', a.attnum, 'name', a.attname::text, 'declared', format_type(b.oid, b.modifier),
                       'type', t.typname::text, 'modifier', b.modifier, 'not_null', b.not_null,
                       'identity', a.attidentity::text, 'generated', a.attgenerated <> '',
                       'default', pg_get_expr(d.adbin, d.adrelid),
                       'element', e.typname::text,
                       'labels', (SELECT json_agg(enumlabel::text ORDER BY enumsortorder)
                                    FROM pg_catalog.pg_enum
                                   WHERE enumtypid = CASE WHEN t.typcategory = 'A' THEN e.oid ELSE t.oid END))
                   ORDER BY a.attnum)
              FROM base AS b
              JOIN pg_catalog.pg_attribute AS a ON a.attrelid = (SELECT oid FROM relation) AND a.attnum = b.number
              JOIN pg_catalog.pg_type AS t ON t.oid = b.oid
              LEFT JOIN pg_catalog.pg_type AS e ON e.oid = t.typelem AND t.typcategory = 'A'
              LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum),
        'keys', (
            SELECT json_agg(json_build_array(i.indisprimary, (
                       SELECT array_agg(DISTINCT a.attname::text)
                         FROM pg_catalog.pg_depend AS used
                         JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = used.refobjsubid
                        WHERE (used.objid = i.indexrelid OR used.objid = k.oid) AND used.refobjid = i.indrelid
                          AND used.refobjsubid > 0))
                   ORDER BY i.indisprimary DESC, i.indexrelid)
              FROM pg_catalog.pg_index AS i
              LEFT JOIN pg_catalog.pg_constraint AS k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid
             WHERE i.indrelid = (SELECT oid FROM relation) AND (i.indisunique OR i.indisexclusion)),
        'checks', (
            SELECT json_agg(json_build_array(name, expression, columns))
              FROM (SELECT c.conname::text AS name, pg_get_expr(c.conbin, c.conrelid) AS expression,
                           (SELECT json_agg(a.attname::text)
                              FROM pg_catalog.pg_attribute AS a
                             WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)) AS columns
                      FROM pg_catalog.pg_constraint AS c
                     WHERE c.conrelid = (SELECT oid FROM relation) AND c.contype = 'c'
                    UNION ALL
                    SELECT c.conname::text, pg_get_expr(c.conbin, 0), json_build_array(a.attname::text, 'VALUE')
                      FROM standing AS s
                      JOIN pg_catalog.pg_constraint AS c ON c.contypid = s.domain AND s.domain <> 0 AND c.contype = 'c'
                      JOIN pg_catalog.pg_attribute AS a
                        ON a.attrelid = (SELECT oid FROM relation) AND a.attnum = s.number
                    UNION ALL
                    SELECT '{_BOUNDS}', bounds, columns
                      FROM partitioning
                     WHERE bounds IS NOT NULL AND columns IS NOT NULL) AS each)
    )::text
      FROM relation
"""
_COUNTS = re.compile(r"nextval|uuid")


@dataclass(frozen=True)
class MockColumn:
    """
    A column; *type* is the name of its type, of a domain's that of the type below, *element* that of an array's items.

    *declared* is its type in SQL, *labels* are those of an enum. *is_made*: the server makes its values where none are
    given, different ones if *counts*; *is_fixed*: always.
    """

    name: str
    type: str
    element: str | None
    declared: str
    modifier: int
    not_null: bool
    is_made: bool
    is_fixed: bool
    counts: bool
    default: str | None
    labels: tuple[str, ...]

    @cached_property
    def length(self) -> int | None:
        """Of a text, or of each in an array."""
        declared = re.search(r"\((\d+)\)", self.declared)
        return int(declared[1]) if declared and (self.element or self.type) in ("varchar", "bpchar") else None


class Check(NamedTuple):
    """A CHECK of a table, or of the domain of a column: the SQL *expression* of its *columns* is not false."""

    name: str
    expression: str
    columns: tuple[str, ...]

    @property
    def is_of_each(self) -> bool:
        """True where it is each column by itself that it restricts."""
        return len(self.columns) == 1 or self.name == _BOUNDS


class MockTable(NamedTuple):
    """A table; *keys* are the columns of what is unique, the primary key's first."""

    schema: str
    name: str
    columns: dict[str, MockColumn]
    primary_key: tuple[str, ...]
    keys: list[tuple[str, ...]]
    checks: list[Check]
    foreign_keys: list[ForeignKey]

    @property
    def sql(self) -> str:
        """Its quoted name."""
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"


async def read_mock_table(name: str, schema: str, conn: Connection | None) -> MockTable:
    """What the catalog says of a table that is known to be there."""
    said = await perform(
        lambda c: c.fetchval(_READ, schema, name),
        conn=conn,
        kind=RepositoryError,
        doing=f"read what the catalog says of table {name!r}",
        changes=False,
        repeatable=True,
    )
    known: dict[str, Any] = json.loads(said)
    keys = [(primary, tuple(columns)) for primary, columns in known["keys"] or () if columns]
    return MockTable(
        schema=schema,
        name=name,
        columns={each["name"]: _column(each) for each in known["columns"] or ()},
        primary_key=next((columns for primary, columns in keys if primary), ()),
        keys=list(dict.fromkeys(columns for _, columns in keys)),
        checks=[_check(*each) for each in known["checks"] or ()],
        foreign_keys=[key for key in await read_foreign_keys(conn) if key.table == (schema, name)],
    )


def _column(each: dict[str, Any]) -> MockColumn:
    return MockColumn(
        name=each["name"],
        type=each["type"],
        element=each["element"],
        declared=each["declared"],
        modifier=each["modifier"],
        not_null=each["not_null"],
        is_made=each["generated"] or bool(each["identity"]) or each["default"] is not None,
        is_fixed=each["generated"] or each["identity"] == "a",
        counts=bool(each["identity"]) or _COUNTS.search(each["default"] or "") is not None,
        default=each["default"],
        labels=tuple(each["labels"] or ()),
    )


def _check(name: str, expression: str, columns: list[str]) -> Check:
    if columns[1:] == ["VALUE"]:  # of a domain
        quoted = '"' + columns[0].replace('"', '""') + '"'
        expression, columns = re.sub(r"\bVALUE\b", lambda _: quoted, expression), columns[:1]
    return Check(name, expression, tuple(columns))
