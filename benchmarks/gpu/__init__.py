"""What the engine does on one card: `python -m benchmarks.gpu` runs a module of this package after the other."""
