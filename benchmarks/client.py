"""
The process of one system: `python -m benchmarks.client`, started and asked by systems.py.

A line of JSON on the standard input is a question, a line on the standard output its answer. What a library prints
goes to the standard error.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from . import peers
from .address import Address
from .load import run_callers, run_once
from .workloads import Facts, Workloads, comparable

_ONCE = ("ingest-new", "ingest-merge", "ingest-again", "many-insert", "many-upsert-new", "many-upsert-again")


async def serve(answers: TextIO) -> None:
    """Connect, say into *answers* what the system offers, then answer until the input ends."""

    def answer(**values: object) -> None:
        print(json.dumps(values), file=answers, flush=True)

    first = await _next_question()
    if first is None:
        return
    try:
        connect = peers.load(first["system"])
        async with connect(Address(*first["address"])) as operations:
            workloads = Workloads(operations, Facts(**first["facts"]), first["user_id"])
            answer(
                works=list(workloads.calls),
                chat_table=operations.chat_table,
                turns_per_save=operations.turns_per_save,
            )
            while (question := await _next_question()) is not None:
                try:
                    answer(**await _reply(workloads, question))
                except BaseException as exc:
                    answer(error=_describe(exc))
                    if not isinstance(exc, Exception):
                        return
    except (Exception, SystemExit) as exc:
        answer(error=_describe(exc))


async def _reply(workloads: Workloads, question: Mapping[str, Any]) -> dict[str, Any]:
    if "sample" in question:
        assert workloads.operations.read_document is not None
        rows = [await workloads.operations.read_document(code) for code in question["sample"]]
        return {"rows": [comparable(row) for row in rows]}
    if question["work"] == "acknowledged":
        return {"acknowledged": workloads.acknowledged}
    call = workloads.calls[question["work"]]
    if question["work"] in _ONCE:
        return (await run_once(call))._asdict()
    await run_callers(call, question["warm_up_callers"], question["warm_up"])
    return (await run_callers(call, question["callers"], question["seconds"]))._asdict()


async def _next_question() -> dict[str, Any] | None:
    # in a thread: pools have work of their own to do while nothing is measured
    line = await asyncio.to_thread(sys.stdin.readline)
    return json.loads(line) if line.strip() else None


def _describe(exc: BaseException) -> str:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return f"{type(exc).__name__}: {exc}".splitlines()[0][:300]


def take_output() -> TextIO:
    """The standard output, for the answers alone: from now on it is the standard error for everything else."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGHUP):  # both reach the benchmark, too, which ends its processes
        signal.signal(number, signal.SIG_IGN)
    asyncio.run(serve(take_output()))
