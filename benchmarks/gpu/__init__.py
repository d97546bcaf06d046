"""What the engine does on one card: `python -m benchmarks.gpu` runs a module of this package after the other."""

import os

# Asked whether there is a GPU, torch would else initialize CUDA, which no process forked afterwards could use.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
