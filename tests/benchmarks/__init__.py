"""The benchmark suite: `python tests/benchmarks`. See README.md beside this file."""
