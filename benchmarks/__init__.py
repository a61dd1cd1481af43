"""Timings, as ratios within one run. Run from the project's root; rows go to benchmarks/results."""
