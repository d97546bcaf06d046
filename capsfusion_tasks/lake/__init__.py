"""Writes accepted captions from the warehouse to an Iceberg table."""
