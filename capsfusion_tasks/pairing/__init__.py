"""Pairs raw and synthetic captions of the same URL.

Reads shards into one schema, splits their rows by a hash of the URL, and joins the rows of each URL.
"""
