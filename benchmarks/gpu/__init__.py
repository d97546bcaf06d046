"""Measures the engine on one GPU. `python -m benchmarks.gpu` runs the modules of this package one after the other."""

import os

# Cases are forked from a process that has imported torch and transformers. If an import asks whether there is a GPU, it
# must not initialize CUDA: a forked process could not use it.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
