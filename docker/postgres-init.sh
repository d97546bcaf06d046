#!/usr/bin/env bash
# Runs once, when the volume is empty: the warehouse is a database of its own, with an account of its own.
set -euo pipefail

# \getenv: the arguments of a process are everybody's to read.
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv password WAREHOUSE_PASSWORD
create role capsfusion login password :'password';
create role capsfusion_owner;
create role capsfusion_loader;
create role capsfusion_reader;
grant capsfusion_owner to capsfusion;
create database capsfusion owner capsfusion;
revoke connect on database capsfusion from public;
SQL
