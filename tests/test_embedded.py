"""
The embedded server, against real servers and real processes.

Each test has a directory of its own and leaves no process behind. Most start from a copy of data that initdb made
once, because initdb takes longer than everything else; those that are about the first start do not.
"""

import asyncio
import contextlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from database import embedded
from database.embedded import binaries, data, server
from database.embedded import directory as directories
from database.embedded.account import Account, choose_account, make_private_directory
from database.embedded.binaries import find_binaries, make_usable
from database.embedded.postmaster import (
    find_postmaster,
    find_server_processes,
    is_server_process,
    send_signal,
    stop_postmaster,
)
from database.exceptions import DatabaseNotAvailableError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the embedded server needs Linux or macOS")

PACKAGE = Path(server.__file__).parents[2]
USER_PROGRAM = Path(__file__).with_name("embedded_user.py")
SYSTEM_15 = Path("/usr/lib/postgresql/15/bin")
NEVER = 60.0  # seconds: what has not happened by then never will
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")


def wait_until(condition: Callable[[], object], pause: float = 0.02) -> None:
    deadline = time.monotonic() + NEVER
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(pause)


def wait_until_stopped(directory: Path) -> None:
    wait_until(lambda: not list(find_server_processes(directory)))


def postmaster_pid(directory: Path) -> int:
    running = find_postmaster(directory)
    assert running is not None
    return running.pid


def kill_server(directory: Path, pid: int) -> None:
    send_signal(pid, directory, signal.SIGKILL)
    wait_until(lambda: not is_server_process(pid, directory))


async def ask(uri: str, query: str) -> Any:
    connection = await asyncpg.connect(uri, timeout=NEVER)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


class User:
    """Another process that uses the server of a directory."""

    def __init__(
        self,
        directory: Path | str,
        *arguments: str,
        python: Sequence[str] = (sys.executable,),
        program: Path = USER_PROGRAM,
        **options: Any,
    ) -> None:
        path = os.pathsep.join(filter(None, [str(PACKAGE), os.environ.get("PYTHONPATH")]))
        options["env"] = {**os.environ, "PYTHONPATH": path, **options.get("env", {})}
        command = [*python, str(program), str(directory), *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def tell(self, command: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> None:
        """Let it end as a program ends: without stop()."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.process.wait(NEVER)


@pytest.fixture
def place() -> Iterator[Path]:
    """
    A short, private place whose servers are stopped in the end; where root runs the tests, others may pass it.

    In memory where there is room: none of the promises is about the disk, and most of the time goes into flushing.
    """
    memory = Path("/dev/shm")
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 * 1024**3
    path = Path(tempfile.mkdtemp(prefix="emb-", dir=memory if roomy else None)).resolve()
    path.chmod(0o711)
    yield path
    servers = [data.parent for data in path.glob("**/data") if data.is_dir()]
    for directory in servers:
        embedded._leave(directory)
        stop_postmaster(directory)
        for pid in find_server_processes(directory):
            send_signal(pid, directory, signal.SIGKILL)
        wait_until_stopped(directory)
        wait_until(lambda: not embedded._is_watched(directory))  # noqa: B023 - called at once
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that has been used and is at rest, to be copied."""
    directory = tmp_path_factory.mktemp("made") / "server"
    asyncio.run(embedded.start(directory))
    asyncio.run(embedded.stop(directory))
    return directory


@pytest.fixture
def directory(place: Path, made: Path) -> Path:
    """A directory with data, at rest."""
    return copy_made(made, place / "server")


def copy_made(made: Path, to: Path) -> Path:
    subprocess.run(["cp", "-a", made, to], check=True)
    (to / "server.log").unlink()
    return to


@pytest.fixture
def users() -> Iterator[list[User]]:
    """Processes to be killed in the end."""
    made: list[User] = []
    yield made
    for user in made:
        user.kill()


# --- one process


async def test_the_first_start_makes_a_server_that_asyncpg_and_psql_reach(place: Path) -> None:
    """One call, and there is a PostgreSQL with UTF-8 rules, durable, in UTC, that listens on a unix socket alone."""
    uri = await embedded.start(place / "server")
    connection = await asyncpg.connect(uri)
    rows = await connection.fetch("SELECT name, setting FROM pg_settings")
    settings = {row["name"]: row["setting"] for row in rows}
    assert await connection.fetchval("SELECT lower('ÄÖ') = 'äö' AND 'É' ~* 'é'")
    assert await connection.fetchval("SELECT to_tsvector('simple', 'ÜBER') @@ to_tsquery('simple', 'über')")
    await connection.close()
    assert settings["listen_addresses"] == ""
    assert settings["fsync"] == settings["full_page_writes"] == settings["data_checksums"] == "on"
    assert settings["server_encoding"] == "UTF8"
    assert settings["TimeZone"] == "UTC"
    assert settings["max_connections"] == "100"
    psql = find_binaries().directory / "psql"
    if psql.exists():
        said = subprocess.run([psql, "-Atc", "SELECT 1", uri], capture_output=True, text=True, check=True)
        assert said.stdout == "1\n"
    await embedded.stop(place / "server")


async def test_everything_lies_in_directories_that_only_the_server_s_account_can_enter(directory: Path) -> None:
    """The server trusts whoever reaches its socket, so nobody else may reach it: 0700 on the way, 0700 itself."""
    await embedded.start(directory)
    now = await embedded.status(directory)
    for path in (directory, now["data_directory"], now["socket_directory"], f"{now['socket_directory']}/.s.PGSQL.5432"):
        assert stat.S_IMODE(Path(path).lstat().st_mode) == 0o700, path
    for path in directory.glob("*.l*"):
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600, path
    await embedded.stop(directory)


async def test_start_again_returns_the_same_uri_of_the_same_server(directory: Path) -> None:
    """start() is idempotent: calls do not count, one stop() undoes them all."""
    uri = await embedded.start(directory)
    pid = postmaster_pid(directory)
    assert [await embedded.start(directory) for _ in range(3)] == [uri] * 3
    assert postmaster_pid(directory) == pid
    await embedded.stop(directory)
    assert find_postmaster(directory) is None


async def test_stop_returns_when_the_server_has_stopped_and_the_data_are_kept(directory: Path) -> None:
    """After stop() no process is left; after the next start() everything is as it was."""
    uri = await embedded.start(directory)
    await ask(uri, "CREATE TABLE t AS SELECT 42 AS n")
    for _ in range(10):
        await embedded.stop(directory)
        assert list(find_server_processes(directory)) == []
        assert await ask(await embedded.start(directory), "SELECT n FROM t") == 42
    await embedded.stop(directory)


async def test_status_and_stop_of_nothing_do_nothing(place: Path) -> None:
    """They answer without a server, raise nothing, and make nothing."""
    await embedded.stop(place / "none")
    assert await embedded.shut_down(place / "none")
    now = await embedded.status(place / "none")
    assert (now["running"], now["pid"], now["version"], now["uri"]) == (False, None, None, None)
    assert list(place.iterdir()) == []


async def test_status_tells_all_about_a_running_server(directory: Path) -> None:
    """Running, pid, version, places, URI and users."""
    uri = await embedded.start(directory)
    now = await embedded.status(directory)
    assert now["running"] and now["pid"] == postmaster_pid(directory) and now["uri"] == uri and not now["kept"]
    assert now["version"] == (directory / "data" / "PG_VERSION").read_text().strip()
    assert now["data_directory"] == str(directory / "data")
    if Path("/proc/locks").exists():
        assert now["users"] == [os.getpid()]
    await embedded.stop(directory)


async def test_the_log_says_where_the_data_lie(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line at INFO for a start, none for the calls after it."""
    with caplog.at_level(logging.INFO, logger="database"):
        await embedded.start(directory)
        await embedded.start(directory)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "started" in caplog.text and str(directory) in caplog.text
    await embedded.stop(directory)


async def test_the_event_loop_goes_on_during_a_start(directory: Path) -> None:
    """Other tasks run while the server starts and stops."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    await embedded.start(directory)
    after_start = ticks
    await embedded.stop(directory)
    ticking.cancel()
    assert after_start > 20 and ticks - after_start > 5


def test_eight_threads_with_a_loop_each_get_one_server(directory: Path) -> None:
    """start() may be called from any thread."""
    uris: list[str] = []
    threads = [threading.Thread(target=lambda: uris.append(asyncio.run(embedded.start(directory)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(NEVER)
    assert len(uris) == 8 and len(set(uris)) == 1
    asyncio.run(embedded.stop(directory))
    assert list(find_server_processes(directory)) == []


async def test_two_directories_are_two_servers(directory: Path, made: Path) -> None:
    """A process may use several at once; stopping one leaves the other."""
    other = copy_made(made, directory.with_name("other"))
    uri, other_uri = await asyncio.gather(embedded.start(directory), embedded.start(other))
    await ask(uri, "CREATE TABLE here ()")
    assert await ask(other_uri, "SELECT to_regclass('here')") is None
    await embedded.stop(directory)
    assert await ask(other_uri, "SELECT 1") == 1
    await embedded.stop(other)


async def test_a_directory_that_was_deleted_is_made_again(directory: Path) -> None:
    """`rm -rf` of a running server's directory: the next start makes a new server, and uses nothing of the old."""
    await embedded.start(directory)
    old = postmaster_pid(directory)
    descriptor = os.pidfd_open(old) if hasattr(os, "pidfd_open") else None
    directory.rename(directory.with_name("gone"))
    shutil.rmtree(directory.with_name("gone") / "run")
    try:
        uri = await embedded.start(directory)
        assert postmaster_pid(directory) != old
        assert await ask(uri, "SELECT 1") == 1
        await embedded.stop(directory)
    finally:
        if descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGQUIT)
            os.close(descriptor)


# --- paths


@pytest.mark.parametrize("name", ["with a space", "qu'o\"te$(x)`", "Datenbänke-数据", "a,b", "100%25+&?#"])
async def test_any_path_will_do(place: Path, made: Path, name: str) -> None:
    """Spaces, quotes, other scripts, and what means something in a URI, a shell or a list."""
    directory = copy_made(made, place / name)
    uri = await embedded.start(directory)
    assert await ask(uri, "SELECT 1") == 1
    psql = find_binaries().directory / "psql"
    if psql.exists():
        said = subprocess.run([psql, "-Atc", "SELECT 1", uri], capture_output=True, text=True, check=True)
        assert said.stdout == "1\n"
    await embedded.stop(directory)


async def test_initdb_copes_with_any_path_too(place: Path) -> None:
    """The same for the first start."""
    directory = place / "qu'o\"te $(x)` ä"
    assert await ask(await embedded.start(directory), "SELECT 1") == 1
    await embedded.stop(directory)


async def test_a_long_path_has_its_socket_in_a_private_temporary_directory(place: Path, made: Path) -> None:
    """A socket's path holds some 100 bytes; the directory for it is removed again."""
    (place / ("x" * 100)).mkdir()
    (place / ("x" * 100)).chmod(0o711)
    directory = copy_made(made, place / ("x" * 100) / "server")
    assert await ask(await embedded.start(directory), "SELECT 1") == 1
    sockets = Path((await embedded.status(directory))["socket_directory"])
    assert sockets.parent == Path(tempfile.gettempdir()) and stat.S_IMODE(sockets.lstat().st_mode) == 0o700
    await embedded.stop(directory)
    assert not sockets.exists()


async def test_a_long_temporary_directory_too_is_no_obstacle(
    place: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the socket is in /tmp."""
    long = place / ("x" * 100)
    long.mkdir()
    long.chmod(0o711)
    directory = copy_made(made, long / "server")
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert await ask(await embedded.start(directory), "SELECT 1") == 1
    assert Path((await embedded.status(directory))["socket_directory"]).parent == Path("/tmp")
    await embedded.stop(directory)


def test_a_socket_directory_that_is_not_ours_is_refused(place: Path) -> None:
    """Somebody who was first in /tmp, be it with a directory or a link, cannot make us use what is theirs."""
    account = choose_account(place)
    open_to_all = place / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(open_to_all, account.uid, account.gid)
    with pytest.raises(DatabaseNotAvailableError, match="has mode 0755, not 0700"):
        make_private_directory(open_to_all, account)
    (place / "target").mkdir(mode=0o700)
    (place / "link").symlink_to(place / "target")
    with pytest.raises(DatabaseNotAvailableError, match="is not a directory"):
        make_private_directory(place / "link", account)
    if os.geteuid() == 0:
        (place / "theirs").mkdir(mode=0o700)
        os.chown(place / "theirs", 12345, 12345)
        with pytest.raises(DatabaseNotAvailableError, match=r"belongs to uid 12345.*DB_EMBEDDED_DIR"):
            make_private_directory(place / "theirs", account)


async def test_a_directory_that_others_may_write_is_refused(place: Path) -> None:
    """Unless nothing of anybody's is in it: then it is closed, and used."""
    shared = place / "shared"
    shared.mkdir()
    (shared / "something").touch()
    shared.chmod(0o777)
    with pytest.raises(DatabaseNotAvailableError, match=r"others may write to .*shared.*DB_EMBEDDED_DIR"):
        await embedded.start(shared)
    (shared / "something").unlink()
    assert await ask(await embedded.start(shared), "SELECT 1") == 1
    assert not shared.stat().st_mode & 0o022
    await embedded.stop(shared)


def test_the_default_directory_belongs_to_the_project(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same from anywhere in a project, another one for another project; DB_EMBEDDED_DIR beats it."""
    monkeypatch.delenv("DB_EMBEDDED_DIR", raising=False)
    (place / "one" / "src").mkdir(parents=True)
    (place / "two").mkdir()
    (place / "one" / "pyproject.toml").touch()
    (place / "two" / ".git").mkdir()
    found = []
    for project in ("one", "one/src", "two"):
        monkeypatch.chdir(place / project)
        found.append(directories.find_directory())
    assert found[0] == found[1] != found[2]
    assert found[0].name.startswith("one-") and found[0].parent == directories.default_root().resolve()
    monkeypatch.setenv("DB_EMBEDDED_DIR", "some/where")
    assert directories.find_directory() == place / "two" / "some" / "where"


async def test_a_relative_directory_will_do(place: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DB_EMBEDDED_DIR may be relative; it is resolved when it is used."""
    copy_made(made, place / "server")
    monkeypatch.chdir(place)
    monkeypatch.setenv("DB_EMBEDDED_DIR", "server")
    assert await ask(await embedded.start(), "SELECT 1") == 1
    await embedded.stop()
    assert find_postmaster(place / "server") is None


def test_without_platformdirs_the_error_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is needed only where no directory is set."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    with pytest.raises(DatabaseNotAvailableError, match=r"pip install '.*\[embedded\]', or set DB_EMBEDDED_DIR"):
        directories.default_root()


# --- several processes


def test_eight_processes_that_start_at_once_share_one_server(place: Path, users: list[User]) -> None:
    """One initdb, one postmaster; it lives while one user lives, and stops when the last was killed."""
    directory = place / "server"
    users.extend(User(directory) for _ in range(8))
    answers = [user.answer() for user in users]
    assert len({answer["pid"] for answer in answers}) == 1
    assert list(directory.glob("data.new-*")) == []
    if Path("/proc/locks").exists():
        assert len(asyncio.run(embedded.status(directory))["users"]) == 8
    for user in users[:7]:
        user.kill()
    assert users[7].tell("query") == "äö"
    assert postmaster_pid(directory) == answers[0]["pid"]
    users[7].kill()
    wait_until_stopped(directory)


def test_a_directory_that_several_make_at_once_is_everybody_s(place: Path) -> None:
    """Of those that start first, none takes what another has just made for somebody else's."""
    account = choose_account(place)
    with ThreadPoolExecutor(8) as threads:
        for number in range(50):
            directory = place / f"server-{number}"
            list(threads.map(lambda directory: directories.make_directory(directory, account), [directory] * 8))
            assert directory.stat().st_mode & 0o022 == 0


def test_the_end_of_a_program_is_enough(directory: Path, users: list[User]) -> None:
    """A program that never calls stop() leaves by ending."""
    user = User(directory)
    users.append(user)
    user.answer()
    user.end()
    wait_until_stopped(directory)


async def test_stop_leaves_the_server_to_the_others(directory: Path, users: list[User]) -> None:
    """The one who leaves first does not take the server along; the last one does."""
    user = User(directory)
    users.append(user)
    pid = user.answer()["pid"]
    uri = await embedded.start(directory)
    assert user.tell("stop") is True
    assert await ask(uri, "SELECT 1") == 1 and postmaster_pid(directory) == pid
    await embedded.stop(directory)
    assert list(find_server_processes(directory)) == []


async def test_ctrl_c_in_a_terminal_stops_a_program_not_the_server(directory: Path, users: list[User]) -> None:
    """SIGINT goes to the whole process group of the one that started the server; the others do not notice."""
    user = User(directory, start_new_session=True, stderr=subprocess.DEVNULL)
    users.append(user)
    pid = user.answer()["pid"]
    uri = await embedded.start(directory)
    os.killpg(user.process.pid, signal.SIGINT)
    user.end()
    assert await ask(uri, "SELECT 1") == 1 and postmaster_pid(directory) == pid
    await embedded.stop(directory)


def test_users_come_and_go_in_any_order(directory: Path, users: list[User]) -> None:
    """A user that arrives while the server stops after the last one is never hurt: it waits, and starts it again."""
    for turn in range(6):
        user = User(directory)
        users.append(user)
        assert user.answer().get("error") is None
        if turn % 3 == 0:
            user.kill()
        elif turn % 3 == 1:
            user.tell("stop")
        else:
            user.end()
    arriving = [User(directory) for _ in range(3)]
    users.extend(arriving)
    for user in arriving:
        user.answer()
        assert user.tell("query") == "äö"
    for user in arriving:
        user.kill()
    wait_until_stopped(directory)


async def test_a_kept_server_goes_on_without_users_until_it_is_shut_down(directory: Path, users: list[User]) -> None:
    """`server start` ends and the server stays, whoever comes and goes; `server stop` stops it."""
    keeper = User(directory, "keep")
    users.append(keeper)
    pid = keeper.answer()["pid"]
    keeper.end()
    assert (await embedded.status(directory))["kept"]
    uri = await embedded.start(directory)
    assert await ask(uri, "SELECT 1") == 1
    await embedded.stop(directory)
    assert postmaster_pid(directory) == pid
    assert await embedded.shut_down(directory)
    assert list(find_server_processes(directory)) == []
    assert not (await embedded.status(directory))["kept"]


async def test_a_kept_server_in_use_is_shut_down_by_force_alone(directory: Path, users: list[User]) -> None:
    """Without force it is no longer kept, and stops after its last user. With force its users start it again."""
    user = User(directory, "keep")
    users.append(user)
    user.answer()
    assert await embedded.shut_down(directory) is False
    assert await embedded.shut_down(directory, force=True) is True
    assert user.tell("query") == "äö"
    user.kill()
    wait_until_stopped(directory)


async def test_a_killed_watcher_is_replaced(directory: Path, users: list[User]) -> None:
    """The process that stops the server after SIGKILL of the last user may itself be killed: start() mends that."""
    user = User(directory)
    users.append(user)
    user.answer()
    watcher = find_watcher(directory)
    os.kill(watcher, signal.SIGKILL)
    wait_until(lambda: not embedded._is_watched(directory))
    user.tell("start")
    assert find_watcher(directory) != watcher
    user.kill()
    wait_until_stopped(directory)


def find_watcher(directory: Path) -> int:
    listed = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    found = [
        int(line.split()[0]) for line in listed.splitlines() if "postmaster.py" in line and f" {directory} " in line
    ]
    assert len(found) == 1
    return found[0]


# --- forks


def _start_in_child(directory: Path, answers: Any) -> None:
    answers.put(asyncio.run(embedded.start(directory)))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
async def test_a_forked_child_counts_for_itself(directory: Path) -> None:
    """Its end, and its use of the server, leave the parent's membership alone."""
    uri = await embedded.start(directory)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_start_in_child, args=(directory, answers))
    child.start()
    assert answers.get(timeout=NEVER) == uri
    child.join(NEVER)
    assert await ask(uri, "SELECT 1") == 1
    await embedded.stop(directory)
    assert list(find_server_processes(directory)) == []


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_forked_child_that_does_not_use_the_server_does_not_hold_it(
    directory: Path, users: list[User], end: str
) -> None:
    """The parent leaves, by stop() or by SIGKILL, and the child that lives on is no user."""
    user = User(directory)
    users.append(user)
    user.answer()
    child = user.tell("fork")
    try:
        if end == "stop":
            assert user.tell("stop") is False
        else:
            user.process.kill()
        wait_until_stopped(directory)
    finally:
        os.kill(child, signal.SIGKILL)


# --- crashes


def _files_in(directory: Path, pattern: str, count: int) -> bool:
    return len(list(directory.glob(pattern))) >= count


@pytest.mark.parametrize(
    "moment",
    [
        lambda d: _files_in(d, "data.new-*", 1),
        lambda d: _files_in(d, "data.new-*/base/4/*", 1),
        lambda d: (d / "data").exists(),
        lambda d: (d / "data" / "postmaster.pid").exists(),
    ],
    ids=["empty", "template0", "renamed", "launched"],
)
async def test_a_first_start_may_be_killed_at_any_moment(
    place: Path, users: list[User], moment: Callable[[Path], bool]
) -> None:
    """The next start finds nothing half-made, leaves nothing of it behind, and works."""
    directory = place / "server"
    user = User(directory)
    users.append(user)
    wait_until(lambda: moment(directory), pause=0.002)
    user.kill()
    assert await ask(await embedded.start(directory), "SELECT lower('Ä')") == "ä"
    assert list(directory.glob("data.new-*")) == []
    await embedded.stop(directory)
    assert list(find_server_processes(directory)) == []


@pytest.mark.parametrize("name", ["sleep", "postgres"])
@needs_proc
async def test_a_stale_pid_file_with_a_reused_pid_hurts_nobody(place: Path, directory: Path, name: str) -> None:
    """Neither the process that has the pid by now, be it called postgres, nor the start."""
    program = shutil.which("sleep")
    assert program is not None
    shutil.copy(program, place / name)
    stranger = subprocess.Popen([place / name, "1000"], cwd=place)
    try:
        uri = await embedded.start(directory)
        await ask(uri, "CREATE TABLE t AS SELECT 42 AS n")
        running = postmaster_pid(directory)
        lines = (directory / "data" / "postmaster.pid").read_text()
        os.kill(running, signal.SIGQUIT)
        wait_until(lambda: find_postmaster(directory) is None)
        wait_until_stopped(directory)
        for path in (directory / "data" / "postmaster.pid", directory / "run" / ".s.PGSQL.5432.lock"):
            path.write_text(lines.replace(str(running), str(stranger.pid), 1))
            os.chown(path, choose_account(directory).uid, -1)
        assert not (await embedded.status(directory))["running"]
        assert await ask(await embedded.start(directory), "SELECT n FROM t") == 42
        await embedded.stop(directory)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("content", ["", "\n", "12", "not a pid\n", "-1\n", "0\n", "1\n", "99999999999999999999\n"])
async def test_a_torn_pid_file_does_not_matter(directory: Path, content: str) -> None:
    """PostgreSQL itself refuses to start with some of these."""
    path = directory / "data" / "postmaster.pid"
    path.write_text(content)
    os.chown(path, choose_account(directory).uid, -1)
    assert await ask(await embedded.start(directory), "SELECT 1") == 1
    await embedded.stop(directory)


async def test_a_killed_server_is_brought_back_by_the_next_start(directory: Path, users: list[User]) -> None:
    """Whoever calls start() next, in whatever process; what was committed is there."""
    user = User(directory)
    users.append(user)
    user.answer()
    uri = await embedded.start(directory)
    await ask(uri, "CREATE TABLE t AS SELECT 42 AS n")
    kill_server(directory, postmaster_pid(directory))
    assert await embedded.start(directory) == uri
    assert await ask(uri, "SELECT n FROM t") == 42
    kill_server(directory, postmaster_pid(directory))
    assert user.tell("query") == "äö"
    assert await ask(uri, "SELECT n FROM t") == 42
    await embedded.stop(directory)


async def test_a_backend_that_outlives_its_postmaster_does_not_prevent_a_start(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets a few seconds; then it is ended, so that two servers never work on the same data."""
    monkeypatch.setattr(server, "ORPHAN_LIMIT", 0.3)
    uri = await embedded.start(directory)
    connection = await asyncpg.connect(uri)
    backend = connection.get_server_pid()
    endless = asyncio.create_task(connection.execute("DO 'BEGIN LOOP NULL; END LOOP; END'"))
    observer = await asyncpg.connect(uri)
    while await observer.fetchval("SELECT state FROM pg_stat_activity WHERE pid = $1", backend) != "active":
        await asyncio.sleep(0.01)
    kill_server(directory, postmaster_pid(directory))
    assert is_server_process(backend, directory)
    assert await embedded.start(directory) == uri
    assert not is_server_process(backend, directory)
    assert await ask(uri, "SELECT 1") == 1
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await endless
    connection.terminate()
    observer.terminate()
    await embedded.stop(directory)


async def test_everything_may_be_killed_at_once(directory: Path, users: list[User]) -> None:
    """As in a power cut: users, watcher and server gone, the data recovered."""
    user = User(directory)
    users.append(user)
    uri = user.answer()["uri"]
    await ask(uri, "CREATE TABLE t AS SELECT 42 AS n")
    os.kill(find_watcher(directory), signal.SIGKILL)
    for pid in find_server_processes(directory):
        send_signal(pid, directory, signal.SIGKILL)
    user.kill()
    wait_until_stopped(directory)
    assert await ask(await embedded.start(directory), "SELECT n FROM t") == 42
    await embedded.stop(directory)


# --- failures and limits


async def test_a_server_that_does_not_start_says_why(directory: Path) -> None:
    """The error holds the end of the server's log and a way out; nothing keeps running, nothing stays locked."""
    configuration = directory / "data" / "postgresql.conf"
    good = configuration.read_text()
    configuration.write_text(good + "\nshared_preload_libraries = 'no_such_library'\n")
    for _ in range(2):
        with pytest.raises(DatabaseNotAvailableError) as caught:
            await embedded.start(directory)
        assert "no_such_library" in str(caught.value) and "DATABASE_URL" in str(caught.value)
        assert str(directory / "server.log") in str(caught.value)
        assert list(find_server_processes(directory)) == []
    configuration.write_text(good)
    assert await ask(await embedded.start(directory), "SELECT 1") == 1
    await embedded.stop(directory)


async def test_a_start_without_a_sign_of_life_is_given_up(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A postmaster that hangs does not make start() hang."""
    await embedded.start(directory)
    monkeypatch.setattr(server, "LIFE_SIGN_LIMIT", 0.5)
    pid_file = directory / "data" / "postmaster.pid"
    lines = pid_file.read_text()
    pid_file.write_text(lines.replace("ready   ", "starting"))
    with pytest.raises(DatabaseNotAvailableError, match=r"is not ready after \d+ s"):
        await embedded.start(directory)
    pid_file.write_text(lines)
    await embedded.start(directory)
    await embedded.stop(directory)


async def test_a_directory_that_cannot_be_made_is_named(place: Path) -> None:
    """With the system's reason and the setting to change."""
    (place / "file").touch()
    with pytest.raises(DatabaseNotAvailableError, match=r"cannot make .*file/x.*DB_EMBEDDED_DIR"):
        await embedded.start(place / "file" / "x")


async def test_what_is_no_data_directory_is_left_alone(place: Path) -> None:
    """Somebody's files under the name `data` are not overwritten."""
    (place / "empty" / "data").mkdir(parents=True)  # which is as good as none
    (place / "server" / "data").mkdir(parents=True)
    assert await ask(await embedded.start(place / "empty"), "SELECT 1") == 1
    await embedded.stop(place / "empty")
    (place / "server" / "data" / "letter").touch()
    with pytest.raises(DatabaseNotAvailableError, match=r"is not a PostgreSQL data directory"):
        await embedded.start(place / "server")
    (place / "server" / "data" / "PG_VERSION").write_text("many")
    with pytest.raises(DatabaseNotAvailableError, match=r"is not a PostgreSQL data directory"):
        await embedded.start(place / "server")
    assert (place / "server" / "data" / "PG_VERSION").read_text() == "many"


@needs_root
async def test_a_full_disk_is_called_a_full_disk(place: Path) -> None:
    """And what initdb has made so far is removed."""
    (place / "small").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place / "small"], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises(DatabaseNotAvailableError, match="The disk is full"):
            await embedded.start(place / "small" / "server")
        assert list((place / "small" / "server").glob("data*")) == []
        wait_until(lambda: not embedded._is_watched(place / "small" / "server"))
    finally:
        subprocess.run(["umount", "--lazy", place / "small"], check=True)


async def test_the_log_does_not_grow_for_ever(directory: Path) -> None:
    """A long log is moved aside at a start; one old log is kept."""
    log = directory / "server.log"
    log.write_bytes(b"x\n" * 3_000_000)
    await embedded.start(directory)
    assert log.stat().st_size < 100_000
    assert (directory / "server.log.1").stat().st_size == 6_000_000
    await embedded.stop(directory)


# --- binaries


def test_no_postgresql_anywhere_names_every_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip, DB_POSTGRES_BIN, DATABASE_URL."""
    monkeypatch.delenv("DB_POSTGRES_BIN", raising=False)
    monkeypatch.setattr(binaries, "candidate_directories", lambda: iter(()))
    with pytest.raises(DatabaseNotAvailableError, match=r"pip install '.*\[embedded\]'.*DB_POSTGRES_BIN.*DATABASE_URL"):
        find_binaries()


def test_a_wrong_postgres_bin_is_an_error_not_a_guess(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody set is used or complained about, never replaced."""
    monkeypatch.setenv("DB_POSTGRES_BIN", str(place))
    with pytest.raises(DatabaseNotAvailableError, match=r"DB_POSTGRES_BIN=.* does not hold the programs"):
        find_binaries()


def test_old_and_broken_programs_are_passed_over(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL 14, and something that only looks like one, do not count."""
    monkeypatch.delenv("DB_POSTGRES_BIN", raising=False)
    for name, body in (
        ("old", "echo 'postgres (PostgreSQL) 14.9'"),
        ("broken", "exit 1"),
        ("beta", "echo 'postgres (PostgreSQL) 19beta1'"),
    ):
        (place / name).mkdir()
        for program in ("postgres", "initdb"):
            (place / name / program).write_text(f"#!/bin/sh\n{body}\n")
            (place / name / program).chmod(0o755)
    monkeypatch.setattr(
        binaries,
        "candidate_directories",
        lambda: iter([place / "old", place / "broken", place / "none", place / "beta"]),
    )
    assert find_binaries() == (place / "beta", "19beta1", 19)
    with pytest.raises(DatabaseNotAvailableError, match=r"made by PostgreSQL 16, and there is only 19beta1 in"):
        find_binaries(16)


@pytest.mark.skipif(not SYSTEM_15.exists(), reason="there is no PostgreSQL 15 on this machine")
async def test_data_of_another_version_find_their_own_programs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that PostgreSQL 15 made are served by 15, with UTF-8 rules; a setting that forbids it is an error."""
    monkeypatch.setenv("DB_POSTGRES_BIN", str(SYSTEM_15))
    directory = place / "server"
    assert await ask(await embedded.start(directory), "SELECT lower('ÄÖ') = 'äö'")
    await embedded.stop(directory)
    monkeypatch.delenv("DB_POSTGRES_BIN")
    assert (await ask(await embedded.start(directory), "SHOW server_version")).startswith("15.")
    await embedded.stop(directory)
    (directory / "data" / "PG_VERSION").write_text("16\n")
    monkeypatch.setenv("DB_POSTGRES_BIN", str(SYSTEM_15))
    with pytest.raises(
        DatabaseNotAvailableError, match=r"made by PostgreSQL 16, and there is only 15\..*move the data"
    ):
        await embedded.start(directory)


def test_the_surroundings_do_not_matter(place: Path, users: list[User]) -> None:
    """A LANG that the system lacks, and variables of libpq, change nothing."""
    wrong = {
        "LANG": "xx_YY.UTF-8",
        "LC_ALL": "xx_YY",
        "PGPORT": "1",
        "PGDATA": "/x",
        "PGOPTIONS": "-c x.y=1",
        "TZ": "X",
    }
    user = User(place / "server", env=wrong)
    users.append(user)
    user.answer()
    assert user.tell("query") == "äö"
    assert user.tell("stop") is False


# --- accounts


@needs_root
async def test_root_s_server_runs_as_an_ordinary_user(directory: Path) -> None:
    """PostgreSQL refuses root; the data belong to the account that runs it."""
    await embedded.start(directory)
    account = choose_account(directory)
    assert account.uid != 0
    assert (directory / "data").stat().st_uid == Path(f"/proc/{postmaster_pid(directory)}").stat().st_uid == account.uid
    await embedded.stop(directory)


@needs_root
async def test_root_s_data_may_lie_where_no_other_account_can_go(place: Path) -> None:
    """As in /root: nothing above the data changes its mode or owner, and the server works all the same."""
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    before = closed.stat()
    directory = closed / "server"
    for _ in range(2):
        uri = await embedded.start(directory)
        assert await ask(uri, "SELECT lower('Ä')") == "ä"
        await ask(uri, "CREATE TABLE IF NOT EXISTS t AS SELECT 42 AS n")
        assert await ask(uri, "SELECT n FROM t") == 42
        assert await ask(uri, "SELECT pg_reload_conf()")
        await embedded.stop(directory)
    kept = closed.stat()
    assert (kept.st_mode, kept.st_uid) == (before.st_mode, before.st_uid)
    assert list(find_server_processes(directory)) == []


@needs_root
async def test_root_s_programs_may_lie_where_no_other_account_can_go(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a virtual environment under /root: they are copied once, for all, complete with their libraries."""
    found = find_binaries()
    site = place / "closed" / "site-packages"
    site.mkdir(parents=True)
    package = found.directory.parents[1]
    shutil.copytree(package, site / package.name, symlinks=True)
    if (libraries := package.with_name(package.name + ".libs")).exists():
        shutil.copytree(libraries, site / libraries.name)
    (place / "closed").chmod(0o700)
    monkeypatch.setenv("DB_POSTGRES_BIN", str(site / package.name / "pginstall" / "bin"))
    monkeypatch.setattr(binaries, "default_root", lambda: place / "cache")
    directory = place / "server"
    for _ in range(2):
        assert await ask(await embedded.start(directory), "SELECT 1") == 1
        await embedded.stop(directory)
    copies = list((place / "cache").glob("postgresql-*"))
    assert len(copies) == 1 and stat.S_IMODE((place / "closed").stat().st_mode) == 0o700
    account = Account(65534, 65534)
    assert make_usable(find_binaries(), account).directory.is_relative_to(copies[0])


@needs_root
@needs_proc
def test_root_need_not_be_almighty(directory: Path, users: list[User]) -> None:
    """In most containers root may not look into other accounts' processes; the server is found and stopped."""
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv")
    weak = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace", sys.executable]
    user = User(directory, python=weak)
    users.append(user)
    assert "error" not in user.answer()
    assert user.tell("query") == "äö"
    assert user.tell("stop") is False
    assert list(find_server_processes(directory)) == []


@needs_root
def test_an_ordinary_user_needs_no_root(place: Path, users: list[User]) -> None:
    """The same as everywhere, as uid 65534; root may join that server, and it stays that user's."""
    python = find_python_for_all()
    home = place / "home"
    home.mkdir(mode=0o700)
    os.chown(home, 65534, 65534)
    (place / "code").mkdir()
    shutil.copytree(PACKAGE / "database", place / "code" / "database")
    program = Path(shutil.copy(USER_PROGRAM, place / "code"))
    subprocess.run(["chmod", "-R", "a+rX", place / "code"], check=True)
    libraries = [path for path in sys.path if "site-packages" in path]
    environment = {"HOME": str(home), "PYTHONPATH": os.pathsep.join([str(place / "code"), *libraries])}
    someone = {"user": 65534, "group": 65534, "extra_groups": []}
    user = User("", python=[python], program=program, cwd=home, env=environment, **someone)
    users.append(user)
    answer = user.answer()
    assert "error" not in answer
    assert user.tell("query") == "äö"
    (directory,) = (home / ".local" / "share" / "database-py").iterdir()
    assert Path(f"/proc/{answer['pid']}").stat().st_uid == 65534
    assert asyncio.run(embedded.start(directory)) == answer["uri"]
    assert user.tell("stop") is True
    asyncio.run(embedded.stop(directory))
    assert list(find_server_processes(directory)) == []
    assert {path.lstat().st_uid for path in directory.iterdir()} == {65534}
    user.kill()
    shutil.rmtree(home)


def find_python_for_all() -> str:
    """An interpreter of our version that every account can run; skips the test if there is none."""
    wanted = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{wanted}", f"/usr/local/bin/{wanted}"):
        try:
            process = subprocess.run([python, "-c", ""], user=65534, group=65534, extra_groups=[], check=False)
        except OSError:
            continue
        if process.returncode == 0:
            return python
    pytest.skip("no interpreter of this version that an ordinary user could run")


def test_initdb_and_server_failures_have_a_way_out(place: Path) -> None:
    """Each common reason has its own."""
    for said, way in (
        ("could not extend file: No space left on device", "make room"),
        ("could not create shared memory segment: No space left", "shared_buffers"),
        ("could not open file: Permission denied", "writable"),
        ("could not look up effective user ID 1234: user does not exist", "/etc/passwd"),
        ("anything else", "DATABASE_URL"),
    ):
        assert way in data.way_out(said, place)
