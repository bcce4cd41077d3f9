"""The command stats: what the server has counted of the database."""

from __future__ import annotations

from typing import Annotated, Any

import asyncpg
import typer

from ..connect_db import Connection, get_db_connection
from ..metrics.masking import mask
from .running import Debug, Json, run_command
from .terminal import Terminal, format_bytes

statistics = typer.Typer()

_DATABASE = """
    SELECT current_database() AS database,
           current_setting('server_version') AS server_version,
           pg_database_size(datname) AS bytes,
           numbackends AS connections,
           current_setting('max_connections')::integer AS max_connections,
           (SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND state = 'active') AS active,
           (SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND state LIKE 'idle in transaction%') AS idle_in_transaction,
           xact_commit AS commits,
           xact_rollback AS rollbacks,
           deadlocks,
           temp_bytes,
           blks_hit / nullif(blks_hit + blks_read, 0)::float AS cache_hit_ratio,
           stats_reset AS since
      FROM pg_stat_database
     WHERE datname = current_database()
"""

_TABLES = """
    SELECT relid::regclass::text AS table,
           pg_total_relation_size(relid) AS bytes,
           n_live_tup AS rows,
           n_dead_tup AS dead_rows,
           seq_scan AS scans,
           coalesce(idx_scan, 0) AS index_scans,
           greatest(last_analyze, last_autoanalyze) AS analyzed_at
      FROM pg_stat_user_tables
     ORDER BY bytes DESC, relid::regclass::text
     LIMIT $1
"""

_STATEMENTS = """
    SELECT query AS statement, calls AS count, rows, total_exec_time AS total_ms, mean_exec_time AS mean_ms,
           max_exec_time AS max_ms
      FROM pg_stat_statements
     WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
     ORDER BY total_exec_time DESC
     LIMIT $1
"""


@statistics.command(epilog="Example: python -m database stats --limit 5")
def stats(
    limit: Annotated[int, typer.Option(min=1, max=1_000, metavar="N", help="Tables and statements.")] = 10,
    name: Annotated[str, typer.Option(metavar="NAME", help="The database of <NAME>_DATABASE_URL.")] = "default",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """
    Tell what the server has counted: sizes, connections, the cache, tables, and statements.

    Statements are there where the extension pg_stat_statements is. What a program itself has measured tells its own
    print_query_summary().
    """
    run_command(lambda terminal: _stats(terminal, limit, name), as_json, debug)


async def _stats(terminal: Terminal, limit: int, name: str) -> int:
    async with get_db_connection(name) as conn:
        about: dict[str, Any] = dict(await conn.fetchrow(_DATABASE) or {})
        about["tables"] = [dict(row) for row in await conn.fetch(_TABLES, limit)]
        about["statements"] = await _read_statements(conn, limit)
    _show(terminal, about)
    terminal.give(about)
    return 0


async def _read_statements(conn: Connection, limit: int) -> list[dict[str, Any]] | None:
    """None where the server does not count them, or not for us."""
    try:
        rows = await conn.fetch(_STATEMENTS, limit)
    except (asyncpg.UndefinedTableError, asyncpg.ObjectNotInPrerequisiteStateError, asyncpg.InsufficientPrivilegeError):
        return None
    return [dict(row) | {"statement": mask(row["statement"])} for row in rows]


def _show(terminal: Terminal, about: dict[str, Any]) -> None:
    ratio = about["cache_hit_ratio"]
    since = f"since {about['since']:%Y-%m-%d %H:%M}" if about["since"] else "since it was made"
    for label, text in (
        ("database", f"{about['database']}, {format_bytes(about['bytes'])}, PostgreSQL {about['server_version']}"),
        (
            "connections",
            f"{about['connections']:,} of at most {about['max_connections']:,} of the server, {about['active']:,} "
            f"active, {about['idle_in_transaction']:,} idle in a transaction",
        ),
        ("transactions", f"{about['commits']:,} committed, {about['rollbacks']:,} rolled back {since}"),
        ("deadlocks", f"{about['deadlocks']:,}"),
        ("cache", "nothing read yet" if ratio is None else f"{ratio:.1%} of the pages were there"),
        ("temporary", f"{format_bytes(float(about['temp_bytes']))} written"),
    ):
        terminal.show_labelled((label, "bold"), text, width=14)
    if about["tables"]:
        terminal.show()
        terminal.show((f"{'size':>10}{'rows':>12}{'dead':>9}{'scans':>10}{'by index':>12}  table", "dim"))
    for each in about["tables"]:
        terminal.show(
            f"{format_bytes(each['bytes']):>10}{each['rows']:>12,}{each['dead_rows']:>9,}{each['scans']:>10,}"
            f"{each['index_scans']:>12,}  ",
            (each["table"], "bold"),
        )
    terminal.show()
    if about["statements"] is None:
        terminal.talk("the server counts no statements for us: that needs the extension pg_stat_statements")
        return
    terminal.show((f"{'sent':>10}{'rows':>12}{'total':>13}{'mean':>11}  statement", "dim"))
    for each in about["statements"]:
        terminal.show(
            f"{each['count']:>10,}{each['rows']:>12,}{each['total_ms']:>10,.0f} ms{each['mean_ms']:>8,.2f} ms  "
            f"{each['statement'][:100]}"
        )
