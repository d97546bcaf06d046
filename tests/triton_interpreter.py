"""Without a GPU, Triton's kernels run in its interpreter. Triton looks when it is imported, which torch may do."""

from __future__ import annotations

import os
import shutil

if shutil.which("nvidia-smi") is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
    os.environ["TRITON_INTERPRET"] = "1"
