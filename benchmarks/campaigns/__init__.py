"""Long tests that record figures: `make campaigns`, or `python -m benchmarks.campaigns --only kills`."""
