"""Turns raw and synthetic web image captions into good training captions. Scales to LAION, and runs on a schedule."""

from pathlib import Path

__version__ = "0.1.0"
BUNDLED_MODEL = Path(__file__).parent / "demo" / "model"  # the demo model, the default of CAPSFUSION_MODEL
