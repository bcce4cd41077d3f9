"""
How well and how fast search finds: `python -m benchmarks.search --help`, or `make bench-search`.

docs/benchmarks.md says what each figure means and how it is measured.
"""
