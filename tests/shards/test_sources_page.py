"""Runs the commands of docs/sources.md. Their host names lead to local servers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capsfusion_tasks.demo.sample_data import write_sample_data
from tests.shards.web_server import File, Hub, WebServer

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "sources.md"
ARRIVED = datetime(2026, 11, 1, 12, tzinfo=UTC)


def commands() -> list[str]:
    """The page's indented blocks that contain `capsfusion run`."""
    blocks = re.findall(r"(?:^ {4}.*\n)+", PAGE.read_text(), flags=re.MULTILINE)
    return [block for block in blocks if "capsfusion run" in block]


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw shard. The tests have no synthetic rows for it, so nothing is fused."""
    folder = tmp_path_factory.mktemp("sample") / "shards"
    write_sample_data(folder, rows_per_day=10, days=1)
    return next((folder / "laion-2b").rglob("*.parquet"))


@pytest.mark.parametrize("block", commands(), ids=lambda block: re.findall(r"\w+://|PWD/laion", block + "hf://")[0])
def test_the_commands_of_the_page_do_what_it_says(
    block: str, hub: Hub, web: WebServer, s3_bucket: str, shard: Path, tmp_path: Path, warehouse_url: str
) -> None:
    content = shard.read_bytes()
    hub.token = "hf_your_token"  # noqa: S105
    for name, files in {
        "relaion2B-en-research-safe": {"part-00000-x.parquet": content},
        "relaion-coco": {"x": b""},
    }.items():
        hub.commit(f"laion/{name}", ARRIVED.replace(month=10), files)
        hub.gated.add(f"laion/{name}")
    listed = [{"url": "a.parquet", "arrived_at": ARRIVED.isoformat()}]
    web.files = {
        "/laion2B-en/list.json": File(json.dumps(listed).encode()),
        "/laion2B-en/a.parquet": File(content),
        "/laion-coco/list.txt": File(b"# nothing yet\n"),
    }
    boto3.client("s3").create_bucket(Bucket="my-mirror")
    boto3.client("s3").upload_file(str(shard), "my-mirror", "laion2B-en-joined/a.parquet")
    boto3.client("s3").put_object(Bucket="my-mirror", Key="laion-coco/")
    for folder in ("laion2B-en-joined", "laion-coco"):
        (tmp_path / folder).mkdir()
    copy = Path(shutil.copy(shard, tmp_path / "laion2B-en-joined" / "a.parquet"))
    os.utime(copy, (ARRIVED.timestamp(), ARRIVED.timestamp()))
    (tmp_path / "laion-coco-alone").mkdir()
    alone = tmp_path / "laion-coco-alone" / "a.parquet"
    pq.write_table(pa.table({name: pa.array([], pa.string()) for name in ("URL", "TEXT", "top_caption")}), alone)
    os.utime(alone, (ARRIVED.timestamp(), ARRIVED.timestamp()))
    (tmp_path / "images").mkdir()
    pq.write_table(pa.table({"url": ["u"], "status": ["success"]}), tmp_path / "images" / "00000.parquet")
    if "s3://" in block:  # on S3, an object arrives when it is uploaded: today
        today = datetime.now(UTC).date()
        block = block.replace("2026-11-01", str(today)).replace("2026-11-02", str(today.replace(year=today.year + 1)))
    environment = os.environ | {
        "CAPSFUSION_HOME": str(tmp_path / "home"),
        "CAPSFUSION_WAREHOUSE_URL": warehouse_url,
        "CAPSFUSION_BUCKETS": "2",
        "HF_ENDPOINT": hub.url,
        "http_proxy": web.url,
        "no_proxy": "127.0.0.1,localhost",
        "PYTHON": sys.executable,
    }
    script = f'set -e\ncapsfusion() {{ "$PYTHON" -m capsfusion_tasks.cli "$@"; }}\n{block}'
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    side = "laion_coco" if "alone" in block else "laion_2b"
    assert f"{side}: 1 shards (1 pulled, 0 failed)" in done.stdout
    if "IMAGE_RESULTS" in block:
        assert "image_results: 1 shards (1 pulled, 0 failed), 1 rows" in done.stdout
