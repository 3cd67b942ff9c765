"""Speed and memory against public libraries, in one run: `python -m benchmarks [NAME...]`."""
