#!/usr/bin/env bash
# Runs once, when the database server's volume is empty: creates the warehouse's database, login role and group roles.
set -euo pipefail

# Read the password with \getenv, because all users can read the arguments of a process.
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
