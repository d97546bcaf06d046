"""From pairs to work units: what is new, how units are cut, and what the work will take."""
