"""Accepted captions in an Iceberg table, beside the warehouse."""
