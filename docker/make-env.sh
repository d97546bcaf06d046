#!/bin/sh
# Writes .env with new random secrets, for docker-compose.yaml. Only you can read the file. An existing file is kept.
#
#   docker/make-env.sh [FILE]
set -eu
file=${1:-.env}
if [ -e "$file" ]; then
  echo "$file exists: nothing was changed" >&2
  exit 0
fi

secret() { head -c "$1" /dev/urandom | od -An -vtx1 | tr -d ' \n'; }
fernet() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n'; }

umask 077
warehouse=$(secret 16)
cat > "$file.part" <<END
# Written by docker/make-env.sh. Keep this file.
# Without FERNET_KEY, Airflow cannot read its Connections. Without the passwords, nothing can use the databases.
ADMIN_PASSWORD=$(secret 12)
FERNET_KEY=$(fernet)
API_SECRET_KEY=$(secret 32)
JWT_SECRET=$(secret 32)
AIRFLOW_DB_PASSWORD=$(secret 16)
REDIS_PASSWORD=$(secret 16)

# The warehouse: a separate database, on the server of Airflow's database or on any other PostgreSQL server.
WAREHOUSE_PASSWORD=$warehouse
CAPSFUSION_WAREHOUSE_URL=postgresql://capsfusion:$warehouse@postgres:5432/capsfusion

# Where shards arrive, the staging area, and the model. Any setting of docs/settings.md can be set here.
#CAPSFUSION_LAION2B=s3://bucket/laion-2b
#CAPSFUSION_LAION_COCO=s3://bucket/laion-coco
#CAPSFUSION_STAGING=s3://bucket/staging
#CAPSFUSION_MODEL=BAAI/CapsFus-LLaMA
#HF_TOKEN=

# The S3 keys for the buckets above. Airflow stores the keys as the Connection capsfusion_s3.
#CAPSFUSION_AWS_CONN_ID=capsfusion_s3
#S3_ACCESS_KEY_ID=
#S3_SECRET_ACCESS_KEY=
#S3_ENDPOINT_URL=
#S3_REGION=
END
# With a GPU, use docker-compose.gpu.yaml, which reserves the GPU for the worker of fuse tasks. It needs NVIDIA's
# container toolkit. Without a GPU, the worker fuses on the CPU.
if command -v nvidia-smi > /dev/null && nvidia-smi -L > /dev/null 2>&1; then
  echo "
COMPOSE_FILE=docker-compose.yaml:docker-compose.gpu.yaml" >> "$file.part"
fi
mv "$file.part" "$file"
echo "wrote $file; the UI's user is admin, the password is ADMIN_PASSWORD in that file" >&2
