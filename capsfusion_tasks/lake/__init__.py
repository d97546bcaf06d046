"""Writes accepted captions (captions that passed validation) from the warehouse to an Iceberg table."""
