"""From pairs to work units: finds new pairs, divides them into units (one per GPU task), estimates the work."""
