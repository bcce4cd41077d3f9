"""A directory of Markdown, as a nightly job takes it in: `python batch_ingestion.py`, with your DIRECTORY behind it.

The exit code is 1 where a file was refused, 2 where it could not go on. A second run writes only what has changed.
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

import database as db

SAMPLES = {
    "tea.md": "# Tea\n\nGreen tea wants hot water.\n",
    "bread.md": "# Bread\n\nThe dough rests for an hour.\n",
    "garden/roses.md": "# Roses\n\nRoses are cut in spring.\n",
}


def show(now: dict[str, Any]) -> None:
    print(f"  {now['done']:>6,} of {now['total']:,} files")


async def ingest(directory: Path, code_prefix: str) -> int:
    try:
        async with db.database_lifespan():
            await db.init_document_table()
            result = await db.ingest_directory(directory, code_prefix, progress=show)
    except db.DatabaseError as exc:
        print(f"stopped: {exc}", file=sys.stderr)
        return 2
    for verdict in ("inserted", "updated", "unchanged"):
        print(f"{verdict:<10}{result[verdict]:>6,}")
    print(f"{'failed':<10}{result['failed_count']:>6,}   {result['bytes']:,} bytes in {result['seconds']:.2f} s")
    for failure in result["failures"]:
        print(f"failed: {failure['path']}: {failure['reason']}", file=sys.stderr)
    for warning in result["warnings"]:
        print(f"warning: {warning['path']}: {warning['reason']}", file=sys.stderr)
    return 1 if result["failures"] else 0


def main() -> int:
    if len(sys.argv) > 1:
        directory = Path(sys.argv[1]).absolute()
        return asyncio.run(ingest(directory, directory.name))
    with tempfile.TemporaryDirectory() as samples:
        for name, text in SAMPLES.items():
            path = Path(samples, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return asyncio.run(ingest(Path(samples), "samples"))


sys.exit(main())
