"""Makes up pairs of a raw and a synthetic caption, each with its fused caption.

Training and held-out pairs never share a made-up name.
"""

from capsfusion_tasks.demo.pairs.grammar import MadePair, make_pair
from capsfusion_tasks.demo.pairs.names import SPLITS

__all__ = ["SPLITS", "MadePair", "make_pair"]
