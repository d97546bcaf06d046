"""CapsFusion Pipeline: fuses raw web captions with synthetic ones, from LAION shards to a SQL table."""

from __future__ import annotations

__version__ = "0.1.0"
