"""The rows of `python -m benchmarks.engine`, a file each: `measure(scope)` gives its rows of the table."""
