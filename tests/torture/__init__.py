"""
Real faults against real servers, any number of times: a few in `make test`, the full figures in `make torture`.

Each module holds one kind of fault; table.py lists them all. What a fault has broken is data, not an exception: the
report shows it, and a test insists that there is nothing.
"""
