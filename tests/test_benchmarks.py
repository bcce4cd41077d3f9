"""The benchmark measures, checks and reports; how fast anything is, is not tested."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

from benchmarks.cancellation import finish
from benchmarks.command_line import write_file
from benchmarks.comparisons import BEST_OTHER, LINES, Comparison
from benchmarks.corpus import read_corpus, write_corpus
from benchmarks.install import install
from benchmarks.load import Measure, run_callers
from benchmarks.plot import draw_plot
from benchmarks.results import Key, MemoryRound, Ratio, Results

ROOT = Path(__file__).parent.parent


def start_benchmark(directory: Path, *options: str) -> subprocess.Popen[str]:
    """`python -m benchmarks` with tables that are made in no time, and *directory* for everything temporary."""
    small = ("--quick", "--rounds", "1", "--seconds", "0.01", "--documents", "400", "--turns", "500", "--items", "60")
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *small, *options],
        cwd=directory,
        env={**os.environ, "TMPDIR": str(directory), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a signal to its process group reaches nobody else
    )


def run_benchmark(directory: Path, *options: str) -> tuple[int, str, str]:
    """Its exit code, what it prints, and its errors."""
    with start_benchmark(directory, *options) as process:
        output, errors = process.communicate(timeout=280)
    return process.returncode, output, errors


@pytest.mark.timeout(300)  # it starts every peer
def test_a_small_run_prints_a_table_and_writes_json_and_svg(tmp_path: Path) -> None:
    """Whatever peers are installed; those that are not are named, and nothing is left behind."""
    code, output, errors = run_benchmark(
        tmp_path, "--only", "reads,chat,list,tables", "--json", "r.json", "--svg", "r.svg"
    )
    assert code == 0, output + errors
    assert "fsync on, synchronous_commit on" in output
    assert all(len(line.rstrip()) <= 132 for line in output.splitlines())
    assert "point reads, /s" in output
    assert "page 20, ms" in output

    written = json.loads((tmp_path / "r.json").read_text())
    assert written["environment"]["server"]["fsync"] == "on"
    assert written["failures"] == []
    measured = {(each["work"], each["callers"], each["system"]) for each in written["measures"]}
    for work, callers, system in product(("reads", "chat"), (1, 10, 100, 1000), ("ours", "asyncpg")):
        assert (work, callers, system) in measured
    for work in ("held-get", "held-insert", "held-update", "many-insert", "many-upsert-new", "many-upsert-again"):
        assert {(work, 1, "ours"), (work, 1, "asyncpg")} <= measured
    took_part = {system for _, _, system in measured}
    assert took_part | set(written["missing"]) == set(written["plan"]["systems"])
    assert all(f"not in it: {name}" in output for name in written["missing"])

    assert ElementTree.parse(tmp_path / "r.svg").getroot().tag.endswith("svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json", "r.svg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "writes"], "'writes' is none of reads"),
        (["--rounds", "0"], "'0' is no number greater than 0"),
        (["--corpus", "nowhere"], "nowhere is no directory"),
        (["--only", "ingestion", "--corpus", "."], "there are no Markdown files below"),
        (["--json", "nowhere/r.json"], "there is no directory nowhere"),
        (["--svg", "."], ". is a directory"),
        (["--only", "search", "--documents", "29"], "--documents 29 is too small for search: it needs 30"),
        (["--only", "reads,list", "--documents", "39"], "--documents 39 is too small for list: it needs 40"),
        (["--only", "recent", "--turns", "9"], "--turns 9 is too small for recent: it needs 10"),
    ],
)
def test_a_wrong_option_is_explained(options: Sequence[str], message: str, tmp_path: Path) -> None:
    """Before anything is started."""
    code, _, errors = run_benchmark(tmp_path, *options)
    assert code == 2
    assert message in errors


@pytest.mark.parametrize("doing", ["starting a server", "round 2 of"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_nothing_behind(number: signal.Signals, doing: str, tmp_path: Path) -> None:
    """A signal reaches all processes of the group, again and again; the server stops and its data is gone."""
    with start_benchmark(tmp_path, "--only", "reads", "--rounds", "1000", "--systems", "ours") as process:
        assert process.stdout is not None
        assert any(doing in line for line in process.stdout)
        pids = [int(path.read_text().splitlines()[0]) for path in tmp_path.glob("*/server/data/postmaster.pid")]
        signals = 0
        while process.poll() is None and any(tmp_path.iterdir()):
            os.killpg(process.pid, number)
            signals += 1
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert output.endswith("interrupted; the server has stopped and its data is deleted\n")
    assert signals > 1
    assert list(tmp_path.iterdir()) == []
    assert not any(lives(pid) for pid in pids)


def lives(pid: int) -> bool:
    """A zombie, for which nobody has waited yet, does not."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_a_signal_that_was_ignored_still_is(tmp_path: Path) -> None:
    """After nohup, a run goes on when the terminal is closed."""
    command = [sys.executable, "-c", _IGNORING]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "went on\n", done.stderr


_IGNORING = """
import asyncio, os, signal
from benchmarks.ending import run_until_signal

async def work():
    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    print("went on")

signal.signal(signal.SIGHUP, signal.SIG_IGN)
run_until_signal(work())
"""


def test_a_run_whose_server_is_lost_says_so(tmp_path: Path) -> None:
    """While documents are copied into it, too, as when its disk is full; the way out is named and nothing is left."""
    with start_benchmark(tmp_path, "--only", "reads", "--documents", "200000") as process:
        assert process.stdout is not None
        assert any("making 200,000 documents" in line for line in process.stdout)
        (file,) = tmp_path.glob("*/server/data/postmaster.pid")
        os.kill(int(file.read_text().splitlines()[0]), signal.SIGQUIT)  # it does not wait for anybody
        output, errors = process.communicate(timeout=100)
    assert process.returncode == 1, output + errors
    assert "stopped while making 200,000 documents: " in output
    assert "--directory PATH takes another disk" in output.replace("\n", " ")
    assert errors == ""
    assert list(tmp_path.iterdir()) == []


async def test_clean_up_is_finished_before_a_cancellation_goes_on() -> None:
    """However often the task is cancelled meanwhile."""
    begun, may_end = asyncio.Event(), asyncio.Event()
    steps = []

    async def clean_up() -> None:
        begun.set()
        await may_end.wait()
        steps.append("cleaned up")

    async def work() -> None:
        try:
            await finish(clean_up())
        finally:
            steps.append("ended")

    task = asyncio.ensure_future(work())
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert steps == []
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["cleaned up", "ended"]


def make_results(rounds: dict[Key, list[float]]) -> Results:
    """Results of which only the operations per second matter, one number a round."""
    results = Results(
        {"cores": 2, "python": "CPython 3.11", "server": {"server_version": "18.6"}}, {"rounds": 3, "works": []}
    )
    for key, speeds in rounds.items():
        for number, speed in enumerate(speeds):
            results.add(key, number, Measure(int(speed * 2), 2.0))
    return results


def read_by(system: str) -> Key:
    return Key("reads", 100, system)


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that was slow in one round was slow for both; the median of the ratios is not the ratio of medians."""
    results = make_results({read_by("ours"): [100, 400, 90], read_by("asyncpg"): [50, 100, 90]})
    assert results.speed(read_by("ours")) == 100
    assert results.ratio(read_by("ours"), [read_by("asyncpg")]) == Ratio(2.0, 1.0, 4.0)


def test_the_best_other_is_chosen_in_every_round() -> None:
    """And it is neither asyncpg's pool nor pgbench."""
    results = make_results(
        {
            read_by("ours"): [100, 100],
            read_by("asyncpg"): [99, 99],
            read_by("pgbench"): [99, 99],
            read_by("psycopg"): [50, 20],
            read_by("psqlpy"): [10, 25],
        }
    )
    assert Comparison(BEST_OTHER, 3).ratio(results, "reads", 100) == Ratio(3.0, 2.0, 4.0)


def test_a_failed_or_missing_system_has_no_ratio() -> None:
    """A wrong answer is not a slow one."""
    results = make_results({read_by("ours"): [100], read_by("asyncpg"): [50]})
    assert Comparison("psycopg").ratio(results, "reads", 100) is None
    results.failures[read_by("asyncpg")] = "wrong"
    assert Comparison("asyncpg").ratio(results, "reads", 100) is None


def test_targets_are_kept_from_their_side() -> None:
    """At least so many times faster, at most so many times the memory or the time."""
    results = make_results({Key("page-first", 1, "ours"): [100], Key("page-far", 1, "ours"): [80]})
    slower = Comparison("page-first", 1.3, at_most=True)
    ratio = slower.ratio(results, "page-far", 1)
    assert ratio == Ratio(1.25, 1.25, 1.25)
    assert slower.is_met(ratio)
    results.memory["memory-iterate"] = [MemoryRound(100, 130)]
    grown = Comparison("", 1.2, at_most=True)
    assert grown.ratio(results, "memory-iterate", 1) == Ratio(1.3, 1.3, 1.3)
    assert not grown.is_met(Ratio(1.3, 1.3, 1.3))
    assert Comparison("asyncpg", 2.0).is_met(Ratio(2.0, 1.0, 3.0))
    assert Comparison("asyncpg").is_met(Ratio(2.0, 1.0, 3.0)) is None


def test_every_line_stands_once() -> None:
    """A work at a number of callers has one line."""
    lines = [(line.work, line.callers) for line in LINES]
    assert len(lines) == len(set(lines))


def test_a_plot_without_figures_says_so() -> None:
    """Also where nothing of it was measured it is a picture."""
    drawn = ElementTree.fromstring(draw_plot(make_results({})))
    assert [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")].count("not measured") == 2


async def test_callers_finish_what_they_have_begun() -> None:
    """Every call that was made is waited for and counted, also where the time is over long before its answer."""
    begun, finished = [], []

    async def call(caller: int) -> None:
        begun.append(caller)
        for _ in range(1 + caller * 50):  # those of the later callers are under way when the first one has ended
            await asyncio.sleep(0)
        finished.append(caller)

    measure = await run_callers(call, 7, 0.001)
    assert set(begun) == set(range(7))
    assert sorted(begun) == sorted(finished)
    assert measure.operations == len(finished)


async def test_no_call_is_made_after_the_time() -> None:
    """Each caller makes its first one."""
    begun = []

    async def call(caller: int) -> None:
        begun.append(caller)
        await asyncio.sleep(0)

    measure = await run_callers(call, 7, 0.0)
    assert begun == list(range(7))
    assert measure.operations == 7


def test_the_smallest_tables_are_enough(tmp_path: Path) -> None:
    """What is not refused works; the number of documents need not fill the last page."""
    options = ("--only", "recent,list", "--documents", "50", "--turns", "10", "--systems", "ours,asyncpg")
    code, output, errors = run_benchmark(tmp_path, *options)
    assert code == 0, output + errors
    assert "page 2, ms" in output
    assert "failed" not in output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_file_that_cannot_be_written_is_named() -> None:
    """After the run, too; the other one is written all the same."""
    assert write_file(Path("/dev/full"), "figures") == "/dev/full could not be written: No space left on device"


def test_what_can_be_installed_is(tmp_path: Path) -> None:
    """One peer that cannot be had does not keep the others away."""
    nowhere = f"nowhere @ {tmp_path.as_uri()}/nowhere.whl"
    assert list(install(["pip", nowhere])) == [nowhere]
    assert install(["pip"]) == {}


async def test_a_wrong_answer_ends_the_measure() -> None:
    """It is not counted as a fast one."""

    async def call(caller: int) -> None:
        raise AssertionError("wrong answer")

    with pytest.raises(ExceptionGroup, match="unhandled errors"):
        await run_callers(call, 3, 0.001)


def test_the_corpus_is_the_same_in_every_run(tmp_path: Path) -> None:
    """Figures of different days are about the same files."""
    write_corpus(tmp_path / "a", 3)
    write_corpus(tmp_path / "b", 3)
    files = read_corpus(tmp_path / "a")
    assert files == read_corpus(tmp_path / "b")
    assert [file.code for file in files] == ["part-000/page-00000", "part-000/page-00001", "part-000/page-00002"]
    assert all(file.content.startswith("---\ntitle: ") for file in files)
