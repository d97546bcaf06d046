"""Pairing: canonical columns, hash buckets, and the join of raw with synthetic captions."""
