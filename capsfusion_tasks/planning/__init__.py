"""From pairs to work units: finds new pairs, divides them into units, and estimates the work."""
