"""Sources of shards (Parquet files with captions): lists the shards of an interval, and opens them for reading."""
