"""The warehouse: a PostgreSQL database with the captions and the ledger of shards and work units."""
