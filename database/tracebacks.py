"""
What tracebacks show of frames that hold parameters and passwords: nothing, also to who prints local variables.

A frame that still runs cannot be emptied; so a traceback is cut off where such frames begin.
"""

from __future__ import annotations

from traceback import walk_tb

_DRIVER = ("asyncpg.", f"{__package__}.pool")  # and pooler.py: their connections are the driver's


def raised_in_driver(exc: BaseException) -> bool:
    """True where asyncpg's code raised *exc*, or that of the pool's connections."""
    frames = _are_drivers(exc)
    return bool(frames) and frames[-1]


def went_through_driver(exc: BaseException) -> bool:
    """True where asyncpg's code, or that of the pool's connections, raised *exc* or let it pass."""
    return any(_are_drivers(exc))


def cut_driver(exc: BaseException) -> None:
    """Leave in the traceback of *exc* the frames above the driver's."""
    frames = _are_drivers(exc)
    if True not in frames:
        return
    trace = None
    for _ in range(frames.index(True)):
        trace = exc.__traceback__ if trace is None else trace.tb_next
    if trace is None:
        exc.__traceback__ = None
    else:
        trace.tb_next = None


def _are_drivers(exc: BaseException) -> list[bool]:
    """Of each frame of the traceback, from the outermost on, whether it is the driver's."""
    return [str(frame.f_globals.get("__name__", "")).startswith(_DRIVER) for frame, _ in walk_tb(exc.__traceback__)]
