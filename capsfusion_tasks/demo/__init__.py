"""What `make demo` shows, without any download: made pairs, sample shards in LAION's layout, the demo model."""
