"""Pairs raw with synthetic captions: reads shards into one schema, splits rows by a hash of the URL, and joins them."""
