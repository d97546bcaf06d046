"""`make demo`: made-up caption pairs, sample shards in LAION's schemas, a toy model, a local Airflow."""
