"""How fast Bakeoff trains and predicts, against the plain script: `python -m benchmarks.training`."""
