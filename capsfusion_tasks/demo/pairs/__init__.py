"""Makes up pairs of a raw and a synthetic caption, each pair with a fused caption.

Pairs for training and held-out pairs (for tests of the trained model) never share a made-up name.
"""

from capsfusion_tasks.demo.pairs.grammar import MadePair, make_pair
from capsfusion_tasks.demo.pairs.names import SPLITS

__all__ = ["SPLITS", "MadePair", "make_pair"]
