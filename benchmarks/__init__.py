"""One question a file: `python -m benchmarks.NAME --help`."""
