"""A caption pair into which the validation benchmark plants a fault."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """A good fused caption with its raw and synthetic caption, and the fused and synthetic captions of other pairs."""

    raw: str
    synthetic: str
    caption: str
    others: list[str]
    other_synthetics: list[str]
