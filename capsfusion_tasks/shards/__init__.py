"""The discover and pull stages: where shards come from, and which belong to an interval."""
