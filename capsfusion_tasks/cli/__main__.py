"""``python -m capsfusion_tasks.cli``: the same as ``capsfusion``."""

from __future__ import annotations

from capsfusion_tasks.cli import main

main()
