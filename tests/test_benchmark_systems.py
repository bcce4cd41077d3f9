"""What becomes of a system that lies, dies, is late or talks: it is named, and its figures are not believed."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from benchmarks import peers
from benchmarks.address import Address
from benchmarks.dataset import RARE_DOCUMENTS, code_of, fill_documents, fill_turns
from benchmarks.pgbench import find_pgbench
from benchmarks.plan import Plan
from benchmarks.results import Key, Results
from benchmarks.rounds import Measured, Run, check_counts, check_samples, do_all
from benchmarks.server import run_server
from benchmarks.systems import RunningSystem, SystemFailedError, clean_environment, run_systems
from benchmarks.words import RARE
from benchmarks.workloads import Facts
from database import Settings

NOWHERE = Address("/nowhere", 5432, "nobody", "nothing")
FACTS = Facts(documents=1, threads=1)
_USER_ID = 2_000_000  # neither a peer's nor one of those who had turns before

# a client whose system is made up: `told` is what its documents say, and what it does when it is asked comes before
_PEER = """
import os, runpy, signal, sys, types
from contextlib import asynccontextmanager
from benchmarks import peers
from benchmarks.operations import COLUMNS, Operations

async def read_document(code):
    {does}
    return dict.fromkeys(COLUMNS, {told!r}) | {{"code": code}}

async def save_turn(turn):
    return "stored, says this system"

@asynccontextmanager
async def connect(address):
    yield Operations(read_document=read_document, save_turn=save_turn)

module = types.ModuleType("benchmarks.peers.made_up")
module.connect = connect
sys.modules[module.__name__] = module
peers.SYSTEMS["made-up"] = peers.System("made-up", "made_up", ())
runpy.run_module("benchmarks.client", run_name="__main__")
"""


@asynccontextmanager
async def run_peer(name: str = "made-up", *, does: str = "pass", told: str = "0") -> AsyncIterator[RunningSystem]:
    """The made-up system in its process, connected."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PEER.format(does=does, told=told)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    system = RunningSystem(name, _USER_ID, process)
    try:
        answer = await system.ask(system="made-up", address=NOWHERE, facts=asdict(FACTS), user_id=_USER_ID)
        system.works, system.chat_table = answer["works"], answer["chat_table"]
        yield system
    finally:
        system.hang_up()
        await process.communicate()


def make_run(server: Address, workspace: Path, *works: str) -> Run:
    """A run in small of *works*, by this package and asyncpg."""
    plan = Plan.quick(works, ("ours", "asyncpg"))
    plan = plan.with_options(rounds=1, seconds=0.01, documents=50, turns=10, files=3, memory_files=2, callers=(1,))
    return Run(plan, server, workspace, Results({}, {}), lambda doing: None)


async def test_a_late_system_is_ended() -> None:
    """Its answer would be taken for the answer to the next question."""
    async with run_peer() as system:
        system.patience = 0.05
        system.process.send_signal(signal.SIGSTOP)
        for _ in range(2):
            with pytest.raises(SystemFailedError, match=r"no answer for 0\.05 s"):
                await system.measure("reads")
        assert system.process.returncode == -signal.SIGKILL
        assert system.works == []


@pytest.mark.parametrize(("does", "code"), [("os._exit(3)", "3"), ("os.kill(os.getpid(), signal.SIGKILL)", "-9")])
async def test_a_system_that_dies_is_named(does: str, code: str) -> None:
    """With its exit code; it is not asked any more."""
    async with run_peer(does=does) as system:
        for _ in range(2):
            with pytest.raises(SystemFailedError, match=f"its process ended with exit code {code}"):
                await system.measure("reads")
        assert system.works == []


async def test_a_system_that_asks_for_its_end_says_so_once() -> None:
    """A second answer would be taken for that to the next question."""
    async with run_peer(does="sys.exit('no licence')") as system:
        with pytest.raises(SystemFailedError, match="SystemExit: no licence"):
            await system.measure("reads")
        with pytest.raises(SystemFailedError, match="its process ended"):
            await system.measure("reads")


async def test_what_a_system_prints_is_no_answer() -> None:
    """Neither by Python nor past it."""
    async with run_peer(does="print('{}', flush=True); os.write(1, b'[]\\\\n')") as system:
        assert (await system.measure("reads")).operations > 0
        assert (await system.measure("reads")).operations > 0
    assert system.process.stderr is not None


async def test_an_error_does_not_end_a_system() -> None:
    """The line has failed, with the reason; the next one may succeed."""
    async with run_peer(does="raise ValueError('not this one')") as system:
        with pytest.raises(SystemFailedError, match="ValueError: not this one"):
            await system.measure("reads")
        assert (await system.measure("chat")).operations > 0


async def test_a_system_that_reads_other_documents_has_failed(tmp_path: Path) -> None:
    """At every number of callers, and only that one."""
    run = make_run(NOWHERE, tmp_path, "reads")
    async with run_peer("ours", told="1") as ours, run_peer("good", told="1") as good, run_peer("bad") as bad:
        await check_samples(run, [ours, good, bad], FACTS)
    assert run.results.failures == {Key("reads", 1, "bad"): "it reads other documents than this package does"}


async def test_rows_that_are_not_stored_are_noticed(database: Settings, tmp_path: Path) -> None:
    """As many are in the table as were acknowledged, or the line has failed."""
    address = address_of(database)
    await fill_turns(address, 10)
    run = make_run(address, tmp_path, "chat")
    async with run_systems(["asyncpg"], address, FACTS, tmp_path) as (honest, missing), run_peer() as liar:
        assert missing == {}
        systems: list[Measured] = [*honest, liar]
        acknowledged = [(await system.measure("chat")).operations for system in systems]
        await check_counts(run, systems, address)
    # the warm-up writes, too
    assert list(run.results.failures) == [Key("chat", 1, "made-up")]
    (reason,) = run.results.failures.values()
    assert reason.endswith("rows were acknowledged, 0 are stored")
    assert int(reason.split()[0]) >= acknowledged[1] > 0


def address_of(settings: Settings) -> Address:
    """Of the embedded server; the benchmark knows no other."""
    assert isinstance(settings.database_url, SecretStr)
    uri = settings.database_url.get_secret_value()
    if "host=" not in uri:
        pytest.skip("the benchmark reaches its server through a unix socket")
    return Address.from_uri(uri)


@pytest.mark.parametrize(("name", "resets"), [("asyncpg", True), ("asyncpg-no-reset", False)])
async def test_asyncpg_takes_part_with_and_without_reset(name: str, resets: bool, database: Settings) -> None:
    """The server sees the pool's own statement after the read, or does not."""
    address = address_of(database)
    code = code_of(0)
    await fill_documents(address, 1)
    observer = await asyncpg.connect(address.uri)
    try:
        async with peers.load(name)(address) as operations:
            assert operations.read_document is not None
            assert (await operations.read_document(code))["code"] == code
            last = await observer.fetch(
                "SELECT query FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()", address.database
            )
    finally:
        await observer.close()
    assert any("FROM document" in row["query"] for row in last) is not resets
    assert any("pg_advisory_unlock_all" in row["query"] for row in last) is resets


async def test_pgbench_runs_as_long_as_its_last_rate_says(database: Settings, tmp_path: Path) -> None:
    """The first statements of a connection are slow: what a cold probe says would make the measure too short."""
    async with find_pgbench(address_of(database), 1, tmp_path) as pgbench:
        before = await pgbench.measure("reads", 4, 0.3)
        after = await pgbench.measure("reads", 4, 0.3)
    expected = before.operations / before.seconds * 0.3
    assert expected - 4 <= after.operations <= expected + 4


async def test_the_rare_word_is_in_the_smallest_table(database: Settings) -> None:
    """With fewer documents than the least that is accepted, the search for it could only fail."""
    plan = Plan.quick(("search",), ()).with_options(documents=30)
    assert plan.why_too_small() == ""
    address = address_of(database)
    await fill_documents(address, plan.documents)
    connection = await asyncpg.connect(address.uri)
    found = await connection.fetchval("SELECT count(*) FROM document WHERE content LIKE $1", f"%{RARE}%")
    await connection.close()
    assert found == RARE_DOCUMENTS


@pytest.mark.timeout(300)  # it is three works in small
async def test_nothing_else_is_in_the_server_when_ingestion_is_measured(tmp_path: Path) -> None:
    """Autovacuum would go on in the tables of the works before."""
    tmp_path.chmod(0o755)
    async with run_server(tmp_path / "server") as server:
        run = make_run(server, tmp_path, "reads", "memory", "ingestion")
        await do_all(run)
        connection = await asyncpg.connect(server.uri)
        databases = await connection.fetch("SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1")
        await connection.close()
    assert [row["datname"] for row in databases] == ["ingestion", "postgres"]
    assert run.results.failures == {}


_END_COPIES = """
    SELECT count(pg_terminate_backend(pid))
      FROM pg_stat_activity
     WHERE datname = $1 AND state = 'active' AND query LIKE 'COPY%' AND wait_event IS DISTINCT FROM 'ClientRead'
"""


async def test_a_copy_whose_connection_is_lost_ends(database: Settings) -> None:
    """asyncpg waits for ever there, once what it has sent is not taken any more."""
    address = address_of(database)
    observer = await asyncpg.connect(address.uri)
    filling = asyncio.ensure_future(fill_documents(address, 200_000))
    ended = 0
    while not ended and not filling.done():
        ended = await observer.fetchval(_END_COPIES, address.database)
    await observer.close()
    with pytest.raises((ConnectionError, asyncpg.PostgresError)):
        await filling
    assert ended
