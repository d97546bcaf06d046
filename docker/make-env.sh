#!/bin/sh
# Writes .env for docker-compose.yaml: secrets that nobody else has, readable by you alone. Leaves an existing one alone.
#
#   docker/make-env.sh [FILE]
set -eu
file=${1:-.env}
if [ -e "$file" ]; then
  echo "$file is there already: nothing was changed" >&2
  exit 0
fi

secret() { head -c "$1" /dev/urandom | od -An -vtx1 | tr -d ' \n'; }
fernet() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n'; }

umask 077
warehouse=$(secret 16)
cat > "$file.part" <<END
# Written by docker/make-env.sh. Keep it: without FERNET_KEY Airflow cannot read its connections, without the passwords
# nothing reaches the databases.
ADMIN_PASSWORD=$(secret 12)
FERNET_KEY=$(fernet)
API_SECRET_KEY=$(secret 32)
JWT_SECRET=$(secret 32)
AIRFLOW_DB_PASSWORD=$(secret 16)
REDIS_PASSWORD=$(secret 16)

# The warehouse: a database of its own in the same server, or any other PostgreSQL.
WAREHOUSE_PASSWORD=$warehouse
CAPSFUSION_WAREHOUSE_URL=postgresql://capsfusion:$warehouse@postgres:5432/capsfusion

# Where shards arrive, and the model: README.md, Settings. Each CAPSFUSION_ setting can stand here.
#CAPSFUSION_LAION2B=s3://bucket/laion-2b
#CAPSFUSION_LAION_COCO=s3://bucket/laion-coco
#CAPSFUSION_STAGING=s3://bucket/staging
#CAPSFUSION_MODEL=BAAI/CapsFus-LLaMA
#HF_TOKEN=

# Keys for these buckets; kept by Airflow as the connection capsfusion_s3.
#CAPSFUSION_AWS_CONN_ID=capsfusion_s3
#S3_ACCESS_KEY_ID=
#S3_SECRET_ACCESS_KEY=
#S3_ENDPOINT_URL=
#S3_REGION=
END
# With a GPU and its container toolkit the GPU worker reserves it; without, it fuses on the CPU.
if command -v nvidia-smi > /dev/null && nvidia-smi -L > /dev/null 2>&1; then
  echo "
COMPOSE_FILE=docker-compose.yaml:docker-compose.gpu.yaml" >> "$file.part"
fi
mv "$file.part" "$file"
echo "wrote $file; the UI's user is admin, its password is ADMIN_PASSWORD there" >&2
