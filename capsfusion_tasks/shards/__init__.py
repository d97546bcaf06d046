"""Sources of shards: lists the shards of an interval, and opens them for reading."""
