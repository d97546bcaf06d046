#!/usr/bin/env bash
# Runs at each `docker compose up`, before the other services.
# Migrates Airflow's database and the warehouse. Sets the admin's password, the pool of fuse tasks and S3's Connection.
set -euo pipefail

airflow db migrate
capsfusion db upgrade

# Airflow's simple auth manager reads passwords from this file.
umask 077
python -c 'import json, os; print(json.dumps({os.environ["ADMIN_USER"]: os.environ["ADMIN_PASSWORD"]}))' \
  > "$AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"

# Keep an existing pool: the operator may have changed its slots.
airflow pools get gpu > /dev/null 2>&1 || airflow pools set gpu 1 "Fuse tasks: a slot per GPU node."

# Store the S3 keys from .env as an Airflow Connection, which is encrypted.
# Tasks use this Connection if .env sets CAPSFUSION_AWS_CONN_ID=capsfusion_s3.
if [ -n "${S3_ACCESS_KEY_ID:-}" ]; then
  # Pass the keys in a file, because all users can read the arguments of a process.
  keys=$(mktemp --suffix .json)
  trap 'rm -f "$keys"' EXIT
  python -c '
import json, os
extra = {"endpoint_url": os.environ.get("S3_ENDPOINT_URL"), "region_name": os.environ.get("S3_REGION")}
print(json.dumps({"capsfusion_s3": {
    "conn_type": "aws",
    "login": os.environ["S3_ACCESS_KEY_ID"],
    "password": os.environ["S3_SECRET_ACCESS_KEY"],
    "extra_dejson": {name: value for name, value in extra.items() if value},
}}))' > "$keys"
  airflow connections import --overwrite "$keys" > /dev/null
fi
echo "ready"
