"""TLS: who the server is has to be proven, unless it is on this machine or somebody says otherwise."""

from __future__ import annotations

import datetime
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme

import database as db
from database.settings import Settings, configure

from .conftest import direct_dsn
from .tls_front import Conduct, Front, front_of

SECRET = "canary-password"


def _other_host() -> str | None:
    """A name that leads to this machine, but does not say so."""
    for name in (socket.gethostname(), "127.1"):
        with suppress(OSError):
            addresses = {address[4][0] for address in socket.getaddrinfo(name, 1, socket.AF_INET)}
            if addresses == {"127.0.0.1"} and "verify-full" in Settings(host=name).dsn:
                return name
    return None


@pytest.fixture
def host() -> str:
    name = _other_host()
    if name is None:
        pytest.skip("needs a name of this machine, other than localhost, that leads to 127.0.0.1")
    return name


class Authority:
    """A CA of the tests; *root* is the file with its certificate."""

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self.root = directory / "root.pem"
        self._ca.cert_pem.write_to_path(str(self.root))

    def context(self, name: str, **options: Any) -> ssl.SSLContext:
        """What a server with a certificate for *name* needs."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(name, **options).configure_cert(context)
        return context


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Authority, Authority]]:
    yield Authority(tmp_path_factory.mktemp("ca")), Authority(tmp_path_factory.mktemp("ca"))


def go_through(front: Front, host: str, database: Settings, **settings: Any) -> None:
    """Have the package reach the database of a test through *front*."""
    url = urlsplit(direct_dsn(database))
    configure(
        Settings(
            host=host, port=front.port, user=url.username, password=SECRET, database=url.path[1:],
            min_connections=0, connection_timeout=10, **settings,
        )
    )  # fmt: skip


async def test_a_server_that_proves_who_it_is_is_used(
    host: str, database: Settings, authorities: tuple[Authority, Authority]
) -> None:
    """To another host the default is verify-full; everything works, and nothing is readable on the way."""
    ours = authorities[0]
    async with front_of(direct_dsn(database), "tls", ours.context(host)) as front:
        go_through(front, host, database, sslrootcert=ours.root, command_timeout=0.5)
        await db.insert_document("n", "code", "canary-text")
        assert (await db.get_document_by_code("code") or {})["content"] == "canary-text"
        with pytest.raises(db.DatabaseError):
            await db.execute_with_retry("SELECT pg_sleep(30)")  # is cancelled, through a connection of its own
        assert "sslmode=verify-full" in str((await db.health_report())["database_url"])
        await db.close_connection_pool()
        assert front.connections == front.requests >= 2
        assert front.in_clear == b""


async def test_a_wrong_server_is_refused(
    host: str, database: Settings, authorities: tuple[Authority, Authority]
) -> None:
    """A wrong name, a wrong authority and an expired certificate: an error at once, and no byte of the start-up."""
    ours, theirs = authorities
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    wrong: dict[str, tuple[ssl.SSLContext, Path | None]] = {
        "name": (ours.context("db.example.com"), ours.root),
        "authority": (theirs.context(host), ours.root),
        "unknown authority": (ours.context(host), None),
        "expired": (ours.context(host, not_after=past), ours.root),
    }
    for what, (context, root) in wrong.items():
        async with front_of(direct_dsn(database), "tls", context) as front:
            go_through(front, host, database, sslrootcert=root)
            with pytest.raises(
                db.DatabaseNotAvailableError, match="POSTGRES_SSLMODE and POSTGRES_SSLROOTCERT"
            ) as caught:
                await db.get_connection_pool()
            assert not caught.value.retryable, what
            assert SECRET not in str(caught.value)
            assert await db.ping_postgres() is False
            assert front.in_clear == b"", what


@pytest.mark.parametrize("conduct", ["strips", "stuffs", "errs"])
@pytest.mark.parametrize("sslmode", [None, "require", "verify-ca", "verify-full"])
async def test_who_talks_tls_away_is_refused(
    host: str, database: Settings, conduct: Conduct, sslmode: Any, authorities: tuple[Authority, Authority]
) -> None:
    """Who says that the server has no TLS, puts plain text behind the answer, or forges an error, gets nothing."""
    async with front_of(direct_dsn(database), conduct) as front:
        go_through(front, host, database, sslmode=sslmode, sslrootcert=authorities[0].root)
        with pytest.raises(db.DatabaseNotAvailableError) as caught:
            await db.get_connection_pool()
        assert "forged" not in str(caught.value)
        assert front.requests == front.connections >= 1
        await db.close_connection_pool()
    assert front.in_clear == b""


async def test_the_name_is_not_looked_at_by_verify_ca(
    host: str, database: Settings, authorities: tuple[Authority, Authority]
) -> None:
    """`verify-ca` asks for the authority alone, `require` for encryption alone; both are explicit choices."""
    ours, theirs = authorities
    async with front_of(direct_dsn(database), "tls", ours.context("db.example.com")) as front:
        go_through(front, host, database, sslmode="verify-ca", sslrootcert=ours.root)
        assert await db.health_check()
        await db.close_connection_pool()
        go_through(front, host, database, sslmode="verify-ca", sslrootcert=theirs.root)
        assert not await db.health_check()
        go_through(front, host, database, sslmode="require")
        assert await db.health_check()
        assert front.in_clear == b""


async def test_plain_text_is_for_loopback_and_for_who_says_so(host: str, database: Settings) -> None:
    """Without TLS: loopback by default, another host only with `sslmode=disable` (or `prefer`, `allow`)."""
    async with front_of(direct_dsn(database), "strips") as front:
        for name, sslmode, works in (
            ("127.0.0.1", None, True),
            ("localhost", None, True),
            (host, None, False),
            (host, "disable", True),
            (host, "prefer", True),
            (host, "allow", True),
        ):
            go_through(front, name, database, sslmode=sslmode)
            assert await db.health_check() is works, (name, sslmode)
            await db.close_connection_pool()


@pytest.mark.parametrize(
    ("url", "mode"),
    [
        ("postgresql://localhost/d", "prefer"),
        ("postgresql://127.0.0.1/d", "prefer"),
        ("postgresql://127.8.9.10:1/d", "prefer"),
        ("postgresql://[::1]/d", "prefer"),
        ("postgresql:///d?host=/run/postgresql", "prefer"),
        ("postgresql://%2Frun%2Fpostgresql/d", "prefer"),
        ("postgresql:///d?host=@abstract", "prefer"),
        ("postgresql://localhost,127.0.0.1/d", "prefer"),
        ("postgresql://localhost,db/d", "verify-full"),
        ("postgresql://db/d?host=localhost", "verify-full"),
        ("postgresql://db/d?host=/run/postgresql", "verify-full"),
        ("postgresql://localhost.example.com/d", "verify-full"),
        ("postgresql://127.0.0.1.example.com/d", "verify-full"),
        ("postgresql://127.1/d", "verify-full"),
        ("postgresql://0.0.0.0/d", "verify-full"),
        ("postgresql://10.0.0.1/d", "verify-full"),
        ("postgresql://[fe80::1]/d", "verify-full"),
        ("postgresql://[::ffff:10.0.0.1]/d", "verify-full"),
        ("postgresql://db/d?sslmode=require", "require"),
        ("postgresql://localhost@db/d", "verify-full"),
        ("postgresql://u:localhost@db/d", "verify-full"),
    ],
)
def test_only_what_is_certainly_this_machine_is_trusted(url: str, mode: str) -> None:
    """Whatever else looks like it has to prove who it is."""
    assert f"sslmode={mode}" in Settings(database_url=url).dsn
