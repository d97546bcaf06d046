#!/usr/bin/env bash
# Runs once, when the volume is empty: the warehouse is a database of its own, with an account of its own.
set -euo pipefail

psql -v ON_ERROR_STOP=1 -v password="$WAREHOUSE_PASSWORD" --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
create role capsfusion login password :'password';
create database capsfusion owner capsfusion;
revoke connect on database capsfusion from public;
SQL
