"""Without a GPU, makes Triton run kernels in its interpreter. Import this module before torch, which imports Triton."""

from __future__ import annotations

import os
import shutil

if shutil.which("nvidia-smi") is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
    os.environ["TRITON_INTERPRET"] = "1"
