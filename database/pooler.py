"""
Connections behind a pooler in transaction mode (PgBouncer): each transaction may run in another session of the server.

So nothing may be left in a session: no prepared statement, no setting, no lock, no listener. Statements that would are
refused, and what the driver itself would leave behind is switched off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg

from .exceptions import DatabaseError
from .session_state import SessionState, session_state_of

if TYPE_CHECKING:
    _AsyncpgConnection = asyncpg.Connection[asyncpg.Record]
else:
    _AsyncpgConnection = asyncpg.Connection  # only its stubs know that it is generic


class LeavesNothingBehind(_AsyncpgConnection):
    """
    What a connection does otherwise behind a pooler; needs `statement_cache_size=0`.

    *transaction_settings* are SQL that each BEGIN is sent with.
    """

    __slots__ = ()
    transaction_settings: str
    _server_caps: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # asyncpg would turn jit off for the session while it reads about types
        self._server_caps = self._server_caps._replace(jit=False)

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        """As asyncpg's; a BEGIN comes with the settings of the transaction, in the same message."""
        _check(query)
        if query.startswith("BEGIN"):
            query += self.transaction_settings
        return await super().execute(query, *args, timeout=timeout)

    async def _get_statement(self, query: str, timeout: float | None, *, named: object = False, **more: Any) -> Any:
        _check(query)
        # cursors ask for a name; without one the statement is parsed again for each use, wherever that runs
        name = named if isinstance(named, str) else False
        return await super()._get_statement(query, timeout, named=name, **more)  # type: ignore[misc]

    async def add_listener(self, channel: str, callback: Any) -> None:
        """Not to be had."""
        raise refusal(SessionState("LISTEN", "listen through a connection to the server itself"))

    def get_reset_query(self) -> str:
        """Nothing: there is nothing to undo, and it would run in whose session ever."""
        return ""


def refusal(state: SessionState) -> DatabaseError:
    """The error for a statement that would leave *state* behind."""
    return DatabaseError(
        f"{state.what} does not work behind a pooler (DB_POOLER=transaction), where the session belongs to others a "
        f"moment later: {state.way_out}"
    )


def _check(query: str) -> None:
    state = session_state_of(query)
    if state is not None:
        raise refusal(state)
