"""Figures of fusing, such as tokens and device seconds. A chunk file's footer stores the figures of the file's rows."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Figures:
    """Figures of fusing some rows. ``busy`` and ``slots`` tell how full the batches were (``engine.Occupancy``).

    The figures of a unit (the pairs that one Airflow task fuses) are the sums of its chunks' figures, over all ranks
    and tries.
    """

    rows: int = 0
    prompt_tokens: int = 0
    caption_tokens: int = 0
    device_seconds: float = 0.0
    busy: int = 0
    slots: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def as_dict(self) -> dict[str, Any]:
        """The figures in the form that the ledger stores for a unit. Rates are per device second.

        ``tokens_per_second`` counts only caption tokens. Planning uses other rates, which also count prompt tokens.
        """
        seconds = self.device_seconds
        return {
            "rows": self.rows,
            "prompt_tokens": self.prompt_tokens,
            "caption_tokens": self.caption_tokens,
            "gpu_seconds": round(seconds, 3),
            "rows_per_second": round(self.rows / seconds, 3) if seconds else None,
            "tokens_per_second": round(self.caption_tokens / seconds, 3) if seconds else None,
            "occupancy": round(self.busy / self.slots, 3) if self.slots else None,
        }
