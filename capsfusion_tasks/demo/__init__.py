"""What `make demo` shows, without any download: made pairs, sample shards in LAION's layout, the demo model."""

from pathlib import Path

MODEL = Path(__file__).parent / "model"
