"""
A process that uses the embedded server of one directory: `python embedded_user.py DIRECTORY [keep]`.

It starts it, prints `{"uri": …, "pid": …}`, and obeys the lines it reads: `start`, `stop`, `fork`, `query`. It ends,
without `stop()`, when its input does.
"""

import asyncio
import itertools
import json
import os
import signal
import sys
from pathlib import Path

import asyncpg

from database import embedded
from database.exceptions import DatabaseNotAvailableError


async def answer(command: str, directory: Path | None) -> object:
    if command == "start":
        uri = await embedded.start(directory, keep="keep" in sys.argv[2:])
        return {"uri": uri, "pid": (await embedded.status(directory))["pid"]}
    if command == "stop":
        await embedded.stop(directory)
        return (await embedded.status(directory))["running"]
    if command == "fork":
        # a child that goes on after us and never uses the server itself
        if (child := os.fork()) == 0:
            signal.pause()
        return child
    connection = await asyncpg.connect(await embedded.start(directory))
    value = await connection.fetchval("SELECT lower('ÄÖ')")
    await connection.close()
    return value


def main() -> None:
    directory = Path(sys.argv[1]) if sys.argv[1] else None
    for line in itertools.chain(["start"], sys.stdin):
        try:
            result = asyncio.run(answer(line.strip(), directory))
        except DatabaseNotAvailableError as exc:
            result = {"error": str(exc)}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
