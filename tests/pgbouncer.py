"""PgBouncer in transaction mode in front of the server of the tests, from Debian's package where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

_CONFIGURATION = """
[databases]
* = host={server} port={port} auth_user={user}

[pgbouncer]
listen_addr =
listen_port = 5432
unix_socket_dir = {directory}
unix_socket_mode = 0700
auth_type = trust
auth_file = {directory}/users.txt
auth_query = SELECT rolname::text, ''::text FROM pg_catalog.pg_roles WHERE rolname = $1
admin_users = {user}
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 1000
server_idle_timeout = 5
server_login_retry = 1
"""


def find_pgbouncer() -> str:
    """The program; skips the test where it is not installed."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("needs PgBouncer: apt-get install pgbouncer")
    return program


@contextmanager
def pgbouncer(server_url: str, pool_size: int = 10) -> Iterator[str]:
    """
    The URL of a PgBouncer in transaction mode in front of *server_url*, for the time of the block.

    With at most *pool_size* connections to each database of the server. It runs as the user that the server runs as:
    PgBouncer refuses root, and only that user may enter the directory of the server's socket.
    """
    program = find_pgbouncer()
    url = urlsplit(server_url)
    query = parse_qs(url.query)
    server = Path(query["host"][0]) if "host" in query else None
    owner = server.stat() if server is not None else None
    with tempfile.TemporaryDirectory(prefix="pgb", dir="/tmp") as name:
        directory = Path(name)
        configuration = _CONFIGURATION.format(
            server=server or url.hostname,
            port=query.get("port", [url.port or 5432])[0],
            user=url.username or "postgres",
            directory=directory,
            pool_size=pool_size,
        )
        (directory / "pgbouncer.ini").write_text(configuration)
        (directory / "users.txt").write_text(f'"{url.username or "postgres"}" "{url.password or ""}"\n')
        switch = {}
        if os.geteuid() == 0:
            uid, gid = (owner.st_uid, owner.st_gid) if owner is not None and owner.st_uid else (65534, 65534)
            for path in (directory, *directory.iterdir()):
                os.chown(path, uid, gid)
            switch = {"user": uid, "group": gid, "extra_groups": []}
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [program, "-q", str(directory / "pgbouncer.ini")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd="/", **switch,  # type: ignore[call-overload]
            )  # fmt: skip
        try:
            for _ in range(500):
                if (directory / ".s.PGSQL.5432").exists():
                    break
                if process.poll() is not None:
                    break
                time.sleep(0.01)
            if process.poll() is not None:
                pytest.fail(f"PgBouncer ended: {(directory / 'log').read_text()}")
            credentials = url.netloc.rpartition("@")[0]
            yield f"postgresql://{credentials}@/postgres?host={quote(name, safe='')}&port=5432"
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
