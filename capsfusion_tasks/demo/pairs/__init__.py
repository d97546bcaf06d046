"""Made caption pairs: raw, synthetic and fused, with names from an open vocabulary that is split between uses."""

from capsfusion_tasks.demo.pairs.grammar import MadePair, make_pair
from capsfusion_tasks.demo.pairs.names import SPLITS

__all__ = ["SPLITS", "MadePair", "make_pair"]
