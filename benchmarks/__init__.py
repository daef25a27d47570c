"""Speed, each against a plain version of the same work in the same run: ``python -m benchmarks``."""
