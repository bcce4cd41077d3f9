"""
This package side by side with its peers: `python -m benchmarks --help`, or `make bench`.

docs/benchmarks.md says what each line measures and how fairness is kept.
"""
