"""
What the catalog says of a table, and which column a name means.

The catalog is read once per table and pool. What it said is forgotten where it turns out to be old: the caller that
finds out asks `reread_table`, once for all who ask at the same time.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar, cast
from weakref import WeakKeyDictionary, WeakValueDictionary

import inflection

from .codecs import decode_json
from .connect_db import Connection, Pool, Record, get_connection_pool, perform
from .exceptions import ColumnMatchError, InvalidDataError, RepositoryError, SchemaError
from .query import Built, quote_identifier
from .registry import open_pool
from .values import Type, TypeInfo, UnfitError, check_text, kind_of, make_type

T = TypeVar("T")

_CACHED_NAMES, _CACHED_QUERIES, _CACHED_STATEMENTS = 1_000, 500, 200
_CACHED_LENGTH = 20_000  # characters; what is longer has hardly been seen before
# The uuid defaults that a key made by the client may stand in for.
_RANDOM_KEYS = ("gen_random_uuid()", "uuid_generate_v4()", "uuidv7()", "uuidv4()")

# Everything in one answer, so that it is of one moment. Types of types are followed to the ground.
_READ = """
    WITH RECURSIVE relation AS (
        SELECT c.oid, c.relkind, c.relrowsecurity
          FROM pg_catalog.pg_class AS c
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname = $1::text AND c.relname = $2::text AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    ),
    attribute AS (
        SELECT a.*
          FROM relation
          JOIN pg_catalog.pg_attribute AS a ON a.attrelid = relation.oid AND a.attnum > 0 AND NOT a.attisdropped
    ),
    used (oid) AS (
        SELECT atttypid
          FROM attribute
        UNION
        SELECT part.oid
          FROM used
          JOIN pg_catalog.pg_type AS t USING (oid)
         CROSS JOIN LATERAL (
            SELECT t.typelem WHERE t.typcategory = 'A' AND t.typelem <> 0
            UNION ALL
            SELECT t.typbasetype WHERE t.typbasetype <> 0
            UNION ALL
            SELECT CASE WHEN t.typtype = 'm' THEN rngtypid ELSE rngsubtype END
              FROM pg_catalog.pg_range
             WHERE t.oid IN (rngtypid, rngmultitypid)
            UNION ALL
            SELECT atttypid
              FROM pg_catalog.pg_attribute
             WHERE t.typtype = 'c' AND attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped
         ) AS part (oid)
    )
    SELECT (SELECT json_build_object(
        'kind', relation.relkind::text,
        'row_security', relation.relrowsecurity,
        'triggers', (SELECT json_agg(tgtype ORDER BY oid)
                       FROM pg_catalog.pg_trigger
                      WHERE tgrelid = relation.oid AND NOT tgisinternal),
        'rules', EXISTS (SELECT
                           FROM pg_catalog.pg_rewrite
                          WHERE ev_class = relation.oid AND relation.relkind IN ('r', 'p')),
        'columns', (SELECT json_agg(json_build_array(
                               a.attname::text, a.atttypid::bigint, a.atttypmod, a.attndims, a.attnotnull,
                               a.attidentity::text, a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid),
                               coalesce(c.collisdeterministic, true),
                               a.atttypid IN ('text'::regtype, 'varchar'::regtype) AND getdatabaseencoding() = 'UTF8'
                                   AND c.oid = 'pg_catalog."C"'::regcollation,
                               format_type(a.atttypid, a.atttypmod))
                           ORDER BY a.attnum)
                      FROM attribute AS a
                      LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                      LEFT JOIN pg_catalog.pg_collation AS c ON c.oid = a.attcollation),
        'keys', (SELECT json_agg(json_build_array(i.indisprimary, (
                            SELECT json_agg(a.attname::text ORDER BY k.place)
                              FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (number, place)
                              JOIN attribute AS a ON a.attnum = k.number
                             WHERE k.place <= i.indnkeyatts))
                        ORDER BY i.indisprimary DESC, i.indexrelid)
                   FROM pg_catalog.pg_index AS i
                  WHERE i.indrelid = relation.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
                    AND i.indpred IS NULL AND i.indexprs IS NULL),
        'types', (SELECT json_agg(json_build_array(
                             t.oid::bigint, n.nspname::text, t.typname::text, t.typtype::text,
                             t.typcategory = 'A' AND t.typelem <> 0, t.typelem::bigint, t.typbasetype::bigint,
                             t.typtypmod,
                             coalesce((SELECT (CASE WHEN t.typtype = 'm' THEN rngtypid ELSE rngsubtype END)::bigint
                                         FROM pg_catalog.pg_range
                                        WHERE t.oid IN (rngtypid, rngmultitypid)), 0),
                             (SELECT coalesce(json_agg(enumlabel::text ORDER BY enumsortorder), '[]')
                                FROM pg_catalog.pg_enum
                               WHERE enumtypid = t.oid),
                             (SELECT coalesce(json_agg(json_build_array(attname::text, atttypid::bigint, atttypmod)
                                                       ORDER BY attnum), '[]')
                                FROM pg_catalog.pg_attribute
                               WHERE t.typtype = 'c' AND attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped))
                         ORDER BY t.oid)
                    FROM used
                    JOIN pg_catalog.pg_type AS t USING (oid)
                    JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace)
    )::text FROM relation) AS source,
    pg_current_xact_id_if_assigned() IS NOT NULL OR current_setting('transaction_isolation') NOT LIKE 'read%' AS is_own
"""
_TABLES = """
    SELECT c.relname::text AS name
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = $1::text AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
     ORDER BY name
"""
_SCHEMAS = """
    SELECT nspname::text AS name
      FROM pg_catalog.pg_namespace
     WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
     ORDER BY name
"""


@dataclass(frozen=True, eq=False)
class Column:
    """
    A column of the table *table*; *declared* is its type as PostgreSQL writes it.

    *is_written* False: the server alone makes its values. *is_deterministic* False: texts that differ may be equal.
    *sorts_by_bytes*: it is of collation "C", so that an index on it finds texts by how they begin.
    """

    table: str
    name: str
    type: Type
    declared: str
    not_null: bool
    default: str | None
    is_identity: bool
    is_written: bool
    is_deterministic: bool
    sorts_by_bytes: bool

    @cached_property
    def sql(self) -> str:
        """Its quoted name."""
        return quote_identifier(self.name)

    def encode(self, value: Any) -> Any:
        """*value* as it is sent; raises `InvalidDataError` where the column cannot take it."""
        if value is None:
            return None
        try:
            return self.type.coerce(value)
        except UnfitError as exc:
            error = self.refusal(exc)
        raise error  # not from it: what led to it quotes the value

    def encode_all(self, values: list[Any]) -> list[Any]:
        """As `encode`, for each of *values*."""
        fit = self.type.fit
        if fit is not None and values and (fit(values) or (None in values and self._rest_fits(values))):
            return values
        encode = self.encode
        return [encode(value) for value in values]

    def _rest_fits(self, values: list[Any]) -> bool:
        rest = [value for value in values if value is not None]
        return not rest or bool(self.type.fit and self.type.fit(rest))

    def encode_list(self, values: Iterable[Any]) -> list[Any]:
        """As `encode_all`, for the one parameter that holds all of *values*."""
        return self.type.to_list(self.encode_all(list(values)))

    def encode_text(self, value: Any) -> str:
        """A *value* that is compared with the text of the column."""
        if not isinstance(value, str):
            raise self.refusal(f"is compared with a str here, not with {kind_of(value)}")
        try:
            return check_text(value)
        except UnfitError as exc:
            error = self.refusal(exc)
        raise error

    def refusal(self, reason: object) -> InvalidDataError:
        """The error that says why the column cannot take a value."""
        return InvalidDataError(f"column {self.name!r} of table {self.table!r} {reason}")


class Key(NamedTuple):
    """The columns of a primary key or of a unique index."""

    is_primary: bool
    columns: tuple[str, ...]


class Table:
    """
    What the catalog said of a table, view or foreign table; *source* is all that it said, to be compared.

    *confirmed_at* is when it was last asked (event loop time).
    """

    def __init__(self, schema: str, name: str, source: str, confirmed_at: float) -> None:
        said = decode_json(source)
        infos = {each[0]: TypeInfo(*each[1:]) for each in said["types"] or ()}
        self.schema = schema
        self.name = name
        self.source = source
        self.kind: str = said["kind"]
        self.row_security: bool = said["row_security"]
        self.has_rules: bool = said["rules"]
        self._triggers: list[int] = said["triggers"] or []
        self.columns = {each[0]: _column(name, infos, each) for each in said["columns"] or ()}
        self.keys = [Key(primary, tuple(columns)) for primary, columns in said["keys"] or ()]
        self.primary_key = next((key.columns for key in self.keys if key.is_primary), ())
        self.sql = f"{quote_identifier(schema)}.{quote_identifier(name)}"
        self.statements: dict[Any, Any] = {}
        self.confirmed_at = confirmed_at
        self._queries: dict[Any, Built] = {}
        self._matches: dict[str, Column] = {}

    # -- names

    def match(self, name: str) -> Column:
        """
        The column that *name* means: exactly, else but for case, else camelCase, else singular and plural.

        Raises `ColumnMatchError` where none does, or where several do equally well.
        """
        column = self.columns.get(name) or self._matches.get(name)
        if column is None:
            column = self._nearest(name)
            if len(self._matches) >= _CACHED_NAMES:
                self._matches.clear()
            self._matches[name] = column
        return column

    def _nearest(self, name: str) -> Column:
        if not isinstance(name, str):
            raise ColumnMatchError(f"the name of a column of table {self.name!r} is a str, not {kind_of(name)}")
        if len(name) <= _LONGEST_NAME:
            for simplify in (str.lower, _snake, _singular):
                wanted = simplify(name)
                fitting = [column for column in self.columns.values() if simplify(column.name) == wanted]
                if len(fitting) == 1:
                    return fitting[0]
                if fitting:
                    names = ", ".join(column.name for column in fitting)
                    raise ColumnMatchError(f"Column {name!r} of table {self.name!r} may be any of: {names}")
        shown = name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "…"
        message = f"Column {shown!r} not found in table {self.name!r}. Available columns: {', '.join(self.columns)}."
        raise ColumnMatchError(message + _suggestion(name, self.columns))

    def match_all(self, names: Iterable[str]) -> list[Column]:
        """The columns that *names* mean; raises `ColumnMatchError` where two of them mean the same one."""
        columns: dict[str, str] = {}
        for name in names:
            column = self.match(name)
            if column.name in columns:
                both = f"{columns[column.name]!r} and {name!r}"
                raise ColumnMatchError(f"{both} mean the same column {column.name!r} of table {self.name!r}")
            columns[column.name] = name
        return [self.columns[name] for name in columns]

    # -- keys

    @cached_property
    def id_column(self) -> Column:
        """The column of the primary key, or `id` where there is none; raises `RepositoryError` where it is not one."""
        if len(self.primary_key) == 1:
            return self.columns[self.primary_key[0]]
        if not self.primary_key and "id" in self.columns:
            return self.columns["id"]
        what = f"has the columns {', '.join(self.primary_key)}" if self.primary_key else "is missing"
        raise RepositoryError(
            f"the primary key of table {self.name!r} {what}: use fetch_one(), update() or delete() with a condition"
        )

    @cached_property
    def own_key(self) -> Column | None:
        """The column of the primary key if the client may make its values: a uuid that nothing but chance decides."""
        if len(self.primary_key) != 1 or self.kind not in ("r", "p"):
            return None
        column = self.columns[self.primary_key[0]]
        default = (column.default or "").rpartition(".")[2]
        return column if column.type.label == "uuid" and default in ("", *_RANDOM_KEYS) else None

    @cached_property
    def compares_ids(self) -> bool:
        """True where ids are equal in Python if and only if they are equal in the server."""
        column = self.id_column
        known = column.type.label in ("smallint", "integer", "bigint", "uuid", "text", "character varying")
        return known and column.is_deterministic

    @cached_property
    def shares(self) -> bool:
        """True where concurrent calls by id may share statements."""
        return self.compares_ids and (self.id_column.name,) in {key.columns for key in self.keys}

    # -- what else happens to its rows; triggers are bits of
    # https://www.postgresql.org/docs/current/catalog-pg-trigger.html: 1 for each row, 2 before, 64 instead of

    def has_triggers(self, events: int) -> bool:
        """True where a trigger is fired by one of *events* (4 insert, 8 delete, 16 update)."""
        return any(bits & events for bits in self._triggers)

    def is_plain(self, events: int) -> bool:
        """True where nothing can drop a row, or change it, before one of *events*."""
        may_change = any(bits & events and bits & 1 and bits & (2 | 64) for bits in self._triggers)
        return self.kind in ("r", "p") and not self.has_rules and not may_change

    # -- built statements

    def statement(self, shape: Any, make: Callable[[], T]) -> T:
        """What stands for the shared statements of this *shape*, made by *make* unless it was made before."""
        made = self.statements.get(shape)
        if made is None:
            if len(self.statements) >= _CACHED_STATEMENTS:
                _retire(open_pool(), self)
                self.statements.clear()
            made = self.statements[shape] = make()
        return cast("T", made)

    def query(self, shape: Any, build: Callable[[], Built]) -> Built:
        """The statement of this *shape*, made by *build* unless it was made before."""
        built = self._queries.get(shape)
        if built is None:
            if len(self._queries) >= _CACHED_QUERIES:
                self._queries.clear()
            built = build()
            if len(built.sql) <= _CACHED_LENGTH:
                self._queries[shape] = built
        return built


_LONGEST_NAME = 100  # characters; PostgreSQL's have up to 63 bytes


def _column(table: str, infos: dict[int, TypeInfo], said: Sequence[Any]) -> Column:
    name, number, modifier, dimensions, not_null, identity, generated, default, deterministic, by_bytes, declared = said
    return Column(
        table=table,
        name=name,
        type=make_type(infos, number, modifier, dimensions),
        declared=declared,
        not_null=not_null,
        default=default,
        is_identity=bool(identity),
        is_written=not generated and identity != "a",
        is_deterministic=deterministic,
        sorts_by_bytes=bool(by_bytes),
    )


def _snake(name: str) -> str:
    return str(inflection.underscore(name)).replace("_", "")


def _singular(name: str) -> str:
    return str(inflection.singularize(inflection.underscore(name))).replace("_", "")


def _suggestion(name: str, known: Iterable[str]) -> str:
    simple = {_snake(each): each for each in known}
    close = difflib.get_close_matches(_snake(name[:_LONGEST_NAME]), simple, n=3, cutoff=0.6)
    return f" Did you mean: {', '.join(simple[each] for each in close)}?" if close else ""


# --- what is known, by pool; a connection of somebody else's knows its own


class _Catalog:
    def __init__(self, transaction: object = None) -> None:
        self.tables: dict[tuple[str, str], Table] = {}
        self.reading: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self.transaction = transaction
        self.retired: set[object] = set()  # shared statements that nobody calls any more


_catalogs: WeakKeyDictionary[object, _Catalog] = WeakKeyDictionary()
# What a transaction sees that has written, or that has its own snapshot, may never be true for anybody else.
_of_transactions: WeakKeyDictionary[object, _Catalog] = WeakKeyDictionary()
_KNOWN_TABLES = 5_000


def _owner(conn: Connection | None) -> object | None:
    if conn is None:
        return open_pool()
    holder = getattr(conn, "_holder", None)
    return holder if isinstance(holder, Pool) else _session(conn)


def _session(conn: Connection) -> object:
    # pools lend proxies; what they stand for has the life of the session
    return cast("object", getattr(conn, "_con", conn))


def _catalog(owner: object) -> _Catalog:
    catalog = _known_catalog(owner)
    if catalog is None:
        catalog = _Catalog()
        if isinstance(owner, Pool):
            owner.catalog = catalog
        else:
            _catalogs[owner] = catalog
    return catalog


def _known_catalog(owner: object | None) -> _Catalog | None:
    if isinstance(owner, Pool):
        return cast("_Catalog | None", owner.catalog)
    return None if owner is None else _catalogs.get(owner)


def _of_transaction(conn: Connection) -> _Catalog | None:
    """What is known in the transaction that *conn* is in, and nowhere else."""
    known = _of_transactions.get(_session(conn))
    if known is None or known.transaction is not getattr(_session(conn), "_top_xact", None):
        return None
    return known


def known_table(name: str, schema: str, conn: Connection | None) -> Table | None:
    """What is known of a table without asking; None where nothing is."""
    try:
        if conn is not None and _of_transactions:
            own = _of_transaction(conn)
            if own is not None and (schema, name) in own.tables:
                return own.tables[schema, name]
        catalog = _known_catalog(_owner(conn))
        return None if catalog is None else catalog.tables.get((schema, name))
    except TypeError:  # no str, which read_table explains
        return None


async def read_table(name: str, schema: str, conn: Connection | None, old: Table | None = None) -> Table:
    """
    What the catalog says of a table; *old* itself where it says what it said then.

    Raises `SchemaError` where there is no such table or schema.
    """
    for what, given in (("table", name), ("schema", schema)):
        if not isinstance(given, str):
            raise SchemaError(f"the name of a {what} is a str, not {kind_of(given)}")
        if not is_name(given):
            raise SchemaError(f"no {what} can have that name: it has 1 to 63 bytes of text, without a NUL character")
    doing = f"read what the catalog says of table {name!r}"
    if conn is not None:
        return await _read(name, schema, conn, _owner(conn), doing, old)
    pool = await get_connection_pool()
    catalog = _catalog(pool)
    asked_at = asyncio.get_running_loop().time()
    async with catalog.reading.setdefault((schema, name), asyncio.Lock()):
        known = catalog.tables.get((schema, name))
        if known is not None and (known is not old or known.confirmed_at >= asked_at):
            return known  # somebody else has asked meanwhile
        return await _read(name, schema, None, pool, doing, old)


async def _read(name: str, schema: str, conn: Connection | None, owner: object, doing: str, old: Table | None) -> Table:
    async def ask(c: Connection) -> Record | None:
        return await c.fetchrow(_READ, schema, name)

    began = asyncio.get_running_loop().time()
    said = await perform(ask, conn=conn, kind=RepositoryError, doing=doing, changes=False, repeatable=True)
    source, is_own = (None, False) if said is None else said
    catalog = _catalog(owner)
    if is_own and conn is not None:
        session = _session(conn)
        catalog = _of_transaction(conn) or _Catalog(getattr(session, "_top_xact", None))
        if catalog.transaction is not None:
            _of_transactions[session] = catalog
    if source is None:
        catalog.tables.pop((schema, name), None)
        raise await _missing(name, schema, conn)
    if old is not None and old.source == source:
        old.confirmed_at = began
        return old
    if len(catalog.tables) >= _KNOWN_TABLES:
        catalog.tables.clear()
    table = catalog.tables[schema, name] = Table(schema, name, source, began)
    if old is not None and not is_own:
        _retire(owner, old)
    return table


def forget_table(table: Table, conn: Connection | None) -> None:
    """Have the next call read the catalog again."""
    of_transaction = None if conn is None else _of_transaction(conn)
    for catalog in (_known_catalog(_owner(conn)), of_transaction):
        if catalog is not None and catalog.tables.get((table.schema, table.name)) is table:
            del catalog.tables[table.schema, table.name]


def _retire(owner: object, table: Table) -> None:
    """Let go of the lanes of *table*; of those that have something to do, the next time."""
    if not isinstance(owner, Pool):
        return
    retired = _catalog(owner).retired
    retired.update(statement.shared for statement in table.statements.values())
    for shared in list(retired):
        lane = owner.companions.get(shared)
        if lane is None or lane.is_idle:
            owner.companions.pop(shared, None)
            retired.remove(shared)


async def list_names(query: str, *args: str, conn: Connection | None, doing: str) -> list[str]:
    """The first column of what a *query* about the catalog finds."""
    rows = await perform(
        lambda c: c.fetch(query, *args), conn=conn, kind=RepositoryError, doing=doing, changes=False, repeatable=True
    )
    return [row[0] for row in rows]


async def list_tables(schema: str, conn: Connection | None) -> list[str]:
    """The names of the tables, views and foreign tables of *schema*, in order."""
    return await list_names(_TABLES, schema, conn=conn, doing="list tables")


async def _missing(name: str, schema: str, conn: Connection | None) -> SchemaError:
    tables = await list_tables(schema, conn)
    if tables:
        hint = _suggestion(name, tables) or f" Available tables: {', '.join(tables[:20])}{'…' * (len(tables) > 20)}."
        if "." in name:
            hint = " The schema of a table is given as schema=." + hint
        return SchemaError(f"Table {name!r} not found in schema {schema!r}.{hint}", sqlstate="42P01")
    schemas = await list_names(_SCHEMAS, conn=conn, doing="list schemas")
    if schema in schemas:
        return SchemaError(f"Table {name!r} not found in schema {schema!r}, which has no tables.", sqlstate="42P01")
    hint = _suggestion(schema, schemas) or f" Available schemas: {', '.join(schemas[:20])}."
    return SchemaError(f"Schema {schema!r} not found.{hint}", sqlstate="3F000")


def is_name(name: object) -> bool:
    """Whether PostgreSQL could have something of that *name*."""
    if not isinstance(name, str) or not name or "\0" in name or len(name) > 63:
        return False
    try:
        return len(name.encode()) <= 63
    except UnicodeEncodeError:
        return False
