"""What the engine does on one card: `python -m benchmarks.gpu` runs a module of this package after the other."""

import os

# Cases are forked from a process that has imported torch and transformers. A module of these that asks at its import
# whether there is a GPU must not initialize CUDA, which no forked process could use.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
