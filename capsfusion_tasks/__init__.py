"""Fuses raw and synthetic captions of web images into good training captions, at the size of LAION, on a schedule."""

from pathlib import Path

__version__ = "0.1.0"
BUNDLED_MODEL = Path(__file__).parent / "demo" / "model"  # the demo model, the default of CAPSFUSION_MODEL
