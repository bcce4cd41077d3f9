"""Where a database of the benchmark's server is."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qs, quote, urlsplit


class Address(NamedTuple):
    """A database on a server that is reached through a unix socket, in the parts that the peers ask for."""

    host: str  # the directory of the socket
    port: int
    user: str
    database: str

    @classmethod
    def from_uri(cls, uri: str) -> Address:
        """The parts of *uri*, as `database.embedded.start` returns it."""
        url = urlsplit(uri)
        query = parse_qs(url.query)
        return cls(query["host"][0], int(query["port"][0]), url.username or "", url.path[1:])

    @property
    def uri(self) -> str:
        """The connection URI."""
        return f"postgresql://{self.user}@/{self.database}?host={quote(self.host, safe='')}&port={self.port}"

    def of(self, database: str) -> Address:
        """Another database of the same server."""
        return self._replace(database=database)
