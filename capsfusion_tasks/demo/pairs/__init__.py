"""Made-up caption pairs: raw, synthetic and fused. Training and held-out pairs never share a name."""

from capsfusion_tasks.demo.pairs.grammar import MadePair, make_pair
from capsfusion_tasks.demo.pairs.names import SPLITS

__all__ = ["SPLITS", "MadePair", "make_pair"]
