"""What the commands show to people: a check, a hit of a search, an ingestion, the health of a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from .checks import Check
from .terminal import Terminal, format_bytes, format_seconds, one_line

_SHOWN_FAILURES = 5
_STATES = {"ok": "green", "note": "yellow", "fail": "bold red"}


def show_check(terminal: Terminal, check: Check) -> None:
    """A line, and one with the hint."""
    label = Text.assemble((f"{check.state:<6}", _STATES[check.state]), check.name)
    terminal.show_labelled(label, check.text, width=18)
    if check.hint:
        terminal.show_labelled("", (f"-> {check.hint}", "dim"), width=18)


def show_hit(
    terminal: Terminal, number: int, row: Mapping[str, Any], *, indent: int = 0, lines: int | None = None
) -> None:
    """A document that was found: title and rank, code, and its snippet, or the best *lines* lines of that."""
    label = f"{number:>2}  "
    terminal.show_pair((label + row["name"], "bold"), (f"{row['rank']:.4f}", "dim"), indent=indent)
    terminal.show((row["code"], "dim"), indent=indent + len(label))
    snippet = terminal.highlight(row["snippet"], title=" ".join(one_line(row["name"]).split()))
    if lines is None:
        terminal.show(snippet, indent=indent + len(label))
        return
    for line in terminal.excerpt(snippet, indent=indent + len(label), lines=lines):
        terminal.show(line, indent=indent + len(label))


def show_ingestion(terminal: Terminal, report: Mapping[str, Any], *, dry_run: bool = False, indent: int = 0) -> None:
    """What became of the files, in two lines; failures and warnings on stderr."""
    files = f"{report['total']:,} files" if report["total"] != 1 else "1 file"
    seconds = format_seconds(report["seconds"])
    terminal.show(f"{files}, {format_bytes(report['bytes'])} in {seconds}", indent=indent)
    written = {key: report[key] for key in ("inserted", "updated", "deleted") if report[key]}
    if report["failed_count"]:
        written["failed"] = report["failed_count"]
    if not written and report["total"]:
        terminal.show((f"nothing to do: all {report['unchanged']:,} unchanged", "bold green"), indent=indent)
    elif report["total"] or written:
        counts = written | ({"unchanged": report["unchanged"]} if report["unchanged"] else {})
        verb = "dry run: " if dry_run else ""
        terminal.show((verb + ", ".join(f"{n:,} {what}" for what, n in counts.items()), "bold"), indent=indent)
    show_problems(terminal, report["failures"], "red", "failed")
    show_problems(terminal, report.get("warnings", ()), "yellow", "warning")


def show_problems(terminal: Terminal, problems: Sequence[Mapping[str, Any]], style: str, what: str) -> None:
    """The first few files, each with its reason."""
    for problem in problems[:_SHOWN_FAILURES]:
        terminal.talk((f"{what}: ", style), f"{problem['path']}: {problem['reason']}")
    if len(problems) > _SHOWN_FAILURES:
        terminal.talk(f"… and {len(problems) - _SHOWN_FAILURES:,} more; --json lists them all")


def show_health(terminal: Terminal, report: Mapping[str, Any]) -> None:
    """The report of `health_report`, one fact a line."""
    styles = {"healthy": "green", "degraded": "yellow", "unhealthy": "bold red"}
    facts = {
        "server": f"PostgreSQL {report['server_version']}" if report["server_version"] else None,
        "url": report["database_url"],
        "kind": "embedded" if report["embedded"] else "configured",
        "latency": None if report["latency_ms"] is None else f"{report['latency_ms']:.2f} ms",
        "access": None if report["writable"] is None else "read and write" if report["writable"] else "read only",
        "standby": "yes" if report["standby"] else None,
        "error": report["error"],
    }
    if report["pool"]:
        facts["pool"] = "{in_use} in use, {idle} idle, at most {max_size}".format_map(report["pool"])
    terminal.show_labelled("status", (report["status"], styles[report["status"]]), width=9)
    for name, fact in facts.items():
        if fact is not None:
            terminal.show_labelled(name, fact, width=9)


def show_server(terminal: Terminal, report: Mapping[str, Any]) -> None:
    """The report of `embedded.status`."""
    running = report["running"]
    terminal.show_labelled("status", ("running", "green") if running else ("not running", "yellow"), width=9)
    users = report["users"]
    facts = {
        "pid": report["pid"],
        "version": report["version"] and f"PostgreSQL {report['version']}",
        "data": report["directory"] if report["version"] else f"{report['directory']} (nothing there yet)",
        "log": report["log_file"] if report["version"] else None,
        "uri": report["uri"],
        "kept": ("yes, until server stop" if report["kept"] else "no: only while used") if running else None,
        "users": (", ".join(f"pid {pid}" for pid in users) or "none") if running and users is not None else None,
    }
    for name, fact in facts.items():
        if fact is not None:
            terminal.show_labelled(name, str(fact), width=9)


def show_files(terminal: Terminal, what: str, files: Sequence[str]) -> None:
    """SQL files that were applied or undone, one a line."""
    for file in files:
        terminal.show(f"{what}  ", (file, "bold"))


def show_file(terminal: Terminal, status: Mapping[str, Any]) -> None:
    """An SQL file and what became of it, as `migration_status` says."""
    styles = {"applied": "green", "pending": "yellow", "changed": "bold red", "missing": "bold red"}
    applied_at = status["applied_at"]
    when = f"  {applied_at:%Y-%m-%d %H:%M:%S %Z}" if applied_at is not None else ""
    label = Text.assemble((f"{status['state']:<9}", styles[status["state"]]), status["source"])
    terminal.show_labelled(label, status["file"], (when, "dim"), width=22)
