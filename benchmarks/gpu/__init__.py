"""Measures the engine on one GPU. `python -m benchmarks.gpu` runs the modules of this package one after the other."""

import os

# Each measurement (Case in cases.py) is forked from a process that has imported torch and transformers. The imports may
# check for a GPU. Without this variable, this check may initialize CUDA, and then forked processes cannot use the GPU.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
