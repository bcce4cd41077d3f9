"""The database of another machine, fetched over ssh: `python sync.py`, with USER@HOST and options of ssh behind it.

It needs an sshd there that lets you in with a key. The other machine is this one here: a project in a directory, whose
.env says which database is meant. Of your databases, none is touched.
"""

import asyncio
import getpass
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import database as db

HELP = """It needs the program ssh here, and there an sshd that lets you in with a key, without asking:
  apt-get install openssh-server
  ssh-copy-id {remote}
  ssh -o BatchMode=yes {remote} true"""


async def make(name: str) -> str:
    """The URL of an empty database beside the one that is configured; this process knows it as *name*."""
    pool = await db.get_connection_pool()
    configured = pool.settings.dsn if pool.settings.names_a_server else await db.embedded.start()
    await db.execute_with_retry(f"DROP DATABASE IF EXISTS sync_example_{name} WITH (FORCE)")
    await db.execute_with_retry(f"CREATE DATABASE sync_example_{name}")
    url = urlsplit(configured)._replace(path=f"/sync_example_{name}").geturl()
    db.configure(db.Settings(database_url=url), name)
    return url


def make_project(directory: Path, url: str) -> None:
    (directory / ".env").touch(0o600)
    (directory / ".env").write_text(f"DATABASE_URL={url}\n")


async def sync(remote: str, ssh_options: list[str], project: Path) -> None:
    make_project(project, await make("there"))
    await make("here")
    await db.execute_with_retry("CREATE TABLE tea AS SELECT unnest(ARRAY['green', 'black']) AS name", name="there")
    try:
        report = await db.sync_from(
            remote,
            name="here",
            confirm="sync_example_here",  # what is to be replaced
            ssh_options=ssh_options,
            remote_directory=str(project),
            remote_command=f"{sys.executable} -m database dump -",  # by default: pgdatabase dump -
            directory=project / "dumps",
        )
        print(f"fetched from {remote} into {report['database']}")
        print(await db.execute_with_retry("SELECT name FROM tea ORDER BY name", name="here"))
    finally:
        for name in ("there", "here"):
            await db.close_connection_pool(name)
            await db.execute_with_retry(f"DROP DATABASE sync_example_{name} WITH (FORCE)")
        await db.close_connection_pool()


def main() -> str | None:
    remote, *ssh_options = sys.argv[1:] or [f"{getpass.getuser()}@localhost"]
    with tempfile.TemporaryDirectory() as project:
        try:
            asyncio.run(sync(remote, ssh_options, Path(project)))
        except db.BackupError as exc:
            return f"{exc}\n{HELP.format(remote=remote)}"
    return None


sys.exit(main())
