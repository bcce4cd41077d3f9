"""
`python -m tests.torture`: every fault with its full figures, and a report.

Each runs in a process of its own, one after the other, so that one that hangs ends none but itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .outcome import Outcome, Plan, nobody_complains
from .report import describe_machine, write_report
from .table import FAULTS, Fault

_HERE = Path(__file__).parent
_RESULTS = _HERE / "results.json"
_ROOT = _HERE.parent.parent
_PAGE = _ROOT / "docs" / "reliability.md"
_FOREIGN = ("DATABASE_URL", "POSTGRES_", "PG", "DB_")


def main() -> int:
    """0 where every promise was kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("names", nargs="*", help="faults to run (all)", metavar="NAME")
    parser.add_argument("--share", type=float, default=1.0, help="part of the full figures to run (1)")
    parser.add_argument("--write", action="store_true", help="put the report into docs/reliability.md")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the file for the result of a process of our own
    arguments = parser.parse_args()
    faults = [fault for fault in FAULTS if not arguments.names or fault.name in arguments.names]
    if not faults:
        parser.error(f"there are {', '.join(fault.name for fault in FAULTS)}")
    if arguments.one:
        _run_here(faults[0], arguments.share, Path(arguments.one))
        return 0
    began = time.time()
    results = {fault.name: _run(fault, arguments.share) for fault in faults}
    if arguments.write:
        # faults that were not run now keep their last result, each with the command that made it
        stored: dict[str, Any] = json.loads(_RESULTS.read_text()) if _RESULTS.exists() else {}
        stored |= results
        _RESULTS.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
        write_report(_PAGE, stored)
    print(f"{time.time() - began:.0f} s")
    return int(any(result["broken"] or result["late"] for result in results.values()))


def _run(fault: Fault, share: float) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    print(f"{fault.name}: {fault.full}" + (f", {share:.0%} of it" if share != 1 else ""), flush=True)
    began = time.time()
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "outcome.json"
        command = [sys.executable, "-m", "tests.torture", fault.name, "--share", str(share), "--one", str(file)]
        result: dict[str, Any] = {"figures": {}, "late": []}
        try:
            if fault.tests:
                result = _run_tests(fault, environment)
            elif (ended := subprocess.run(command, env=environment, timeout=fault.limit, check=False)).returncode:
                result["broken"] = [f"the process ended with {ended.returncode}"]
            else:
                result = json.loads(file.read_text())
        except subprocess.TimeoutExpired:
            result["broken"] = [f"hangs: not done after {fault.limit:.0f} s"]
    result |= {
        "share": share,
        "machine": machine,
        "seconds": round(time.time() - began, 1),
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"make torture FAULTS={fault.name}" + ("" if share == 1 else f" SHARE={share:g}"),
    }
    for kind in ("figures", "broken", "late"):
        for line in result[kind].items() if kind == "figures" else result[kind]:
            print(f"  {kind if kind != 'figures' else ''} {': '.join(map(str, line)) if kind == 'figures' else line}")
    print(f"  {result['seconds']} s", flush=True)
    return result


def _run_here(fault: Fault, share: float, file: Path) -> None:
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)  # no `.env` of the machine
        outcome = asyncio.run(_run_fault(fault, Plan(share, Path(directory))))
    file.write_text(json.dumps({"figures": outcome.figures, "broken": outcome.broken, "late": outcome.late}))


async def _run_fault(fault: Fault, plan: Plan) -> Outcome:
    assert fault.run is not None
    background = Outcome()
    with nobody_complains(background):
        outcome = await fault.run(plan)
    outcome.broken += background.broken
    outcome.figures |= background.figures
    return outcome


def _run_tests(fault: Fault, environment: dict[str, str]) -> dict[str, Any]:
    """The number of tests that passed, and what the others say."""
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", *fault.tests]
    done = subprocess.run(
        command, env=environment, timeout=fault.limit, capture_output=True, text=True, check=False, cwd=_ROOT
    )
    said = done.stdout.strip().splitlines()
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|skipped|errors?)", said[-1])}
    broken = [line for line in said if line.startswith(("FAILED", "ERROR"))]
    if done.returncode and not broken:
        broken = [f"pytest ended with {done.returncode}"]
    return {"figures": {f"tests {what}": number for what, number in counts.items()}, "broken": broken, "late": []}


sys.exit(main())
