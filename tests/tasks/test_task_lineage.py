"""Tests OpenLineage's names of shards and tables, and the events of a unit and of an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from openlineage.client.naming.dataset import GCS, S3, DatasetNaming, LocalFileSystem, Postgres
from sqlalchemy import make_url

from capsfusion_tasks.context import open_context
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Replay, Unit
from capsfusion_tasks.tasks import interval_tasks, task_lineage
from capsfusion_tasks.tasks.dataset_names import DatasetName, file_name, table_name
from capsfusion_tasks.warehouse import fusions, ledger
from capsfusion_tasks.warehouse.load import load_unit
from tests.tasks.place import DAY, Place
from tests.warehouse.conftest import FUSION, rows


@pytest.mark.parametrize(
    ("location", "path", "naming"),
    [
        ("s3://bucket/laion-2b", "2026/a.parquet", S3("bucket", "laion-2b/2026/a.parquet")),
        ("s3://bucket", "a.parquet", S3("bucket", "a.parquet")),
        ("gs://bucket/laion-2b/", "a.parquet", GCS("bucket", "laion-2b/a.parquet")),
        ("/data/laion-2b", "a.parquet", LocalFileSystem("/data/laion-2b/a.parquet")),
        ("file:///data/laion-2b", "", LocalFileSystem("/data/laion-2b")),
    ],
)
def test_files_have_the_names_that_openlineage_gives_them(location: str, path: str, naming: DatasetNaming) -> None:
    assert file_name(location, path) == (naming.get_namespace(), naming.get_name())


def test_other_addresses_are_named_by_their_host() -> None:
    assert file_name("hf://datasets/laion/laion2B-en", "a.parquet") == ("hf://datasets", "laion/laion2B-en/a.parquet")
    assert file_name("https://example.org:8443/laion", "a.parquet") == ("https://example.org:8443", "laion/a.parquet")


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("postgresql://user:secret@db.example.org:5433/warehouse", "db.example.org", "5433"),
        ("postgresql://user:secret@db.example.org/warehouse", "db.example.org", "5432"),
        ("postgresql:///warehouse?host=/run/postgresql&port=5434", "localhost", "5434"),
        ("postgresql:///warehouse?host=db.example.org", "db.example.org", "5432"),
    ],
)
def test_tables_have_the_names_that_openlineage_gives_them(url: str, host: str, port: str) -> None:
    naming = Postgres(host, port, "warehouse", "capsfusion", "fused_captions")
    assert table_name(make_url(url), "fused_captions") == (naming.get_namespace(), naming.get_name())


def fields_of(dataset: Any) -> dict[str, set[tuple[str, str, str]]]:
    """Column of the dataset → the columns that it is made from, as (namespace, dataset, column)."""
    fields = dataset.facets["columnLineage"].fields
    return {name: {(f.namespace, f.name, f.field) for f in made.inputFields} for name, made in fields.items()}


def test_the_columns_of_a_shard_lead_to_those_of_its_buckets_also_when_it_is_pulled_again(place: Place) -> None:
    settings = place.settings(punsafe_max=0.25)
    with open_context(settings) as context:
        shard = next(one for one in interval_tasks.discover(context, DAY) if one.side == "laion_2b")
        for _ in range(2):
            told = task_lineage.of_pull(context, shard, interval_tasks.pull(context, shard))
            [read], [written] = told.inputs, told.outputs
            source = DatasetName("file", str(Path(shard.source) / shard.path))
            assert (read.namespace, read.name) == source
            assert read.facets["version"].datasetVersion == shard.etag
            columns = fields_of(written)
            assert columns["url"] == {(*source, "URL")}
            assert columns["text"] == {(*source, "TEXT")}
            assert columns.keys() == {"url", "text", "punsafe", "pwatermark"}
            quality, kept = read.inputFacets["dataQualityMetrics"], written.outputFacets["outputStatistics"]
            dropped = {test.name: int(test.actual) for test in told.run_facets["test"].tests}
            assert quality.rowCount - sum(dropped.values()) == kept.rowCount > 0
            assert dropped.keys() == {"unsafe"}


def test_an_export_is_told_with_its_rows_and_files(place: Place) -> None:
    with open_context(place.settings()) as context:
        exported = {"target": "s3://bucket/captions/f/day", "rows": 7, "files": 2}
        told = task_lineage.of_export(context, exported)
        captions = table_name(context.warehouse.url, "fused_captions")
    [read], [written] = told.inputs, told.outputs
    assert (read.namespace, read.name) == captions
    assert (written.namespace, written.name) == ("s3://bucket", "captions/f/day")
    assert fields_of(written)["capsfusion"] == {(*captions, "capsfusion")}
    statistics = written.outputFacets["outputStatistics"]
    assert (statistics.rowCount, statistics.fileCount) == (7, 2)


@pytest.mark.parametrize("work", [DAY, Replay(name="again", fusion_id="f0")], ids=["interval", "replay"])
def test_a_unit_is_told_with_its_shards_tables_rows_rejections_and_model(place: Place, work: Interval | Replay) -> None:
    with open_context(place.settings()) as context:
        shards = interval_tasks.discover(context, DAY)[:2]
        unit = Unit(unit_id="u", fusion_id="f1", rows=3, tokens=300)
        with context.warehouse.engine.begin() as connection:
            for fusion_id in ("f0", "f1"):
                fusions.register(connection, FUSION.model_copy(update={"fusion_id": fusion_id}), {})
            ledger.register_units(connection, [unit], work, "run 1")
        came_from = {"laion_2b_shard": shards[0].shard_id, "laion_coco_shard": shards[1].shard_id}
        load_unit(context.warehouse, "u", rows(1, 2, 3, rejected={3: ["truncated", "repetition"]}, **came_from))
        told = task_lineage.of_load(context, unit, {"accepted": 2, "rejected": 1})
        fused, rejected, replayed = (
            table_name(context.warehouse.url, f"{kind}_captions") for kind in ("fused", "rejected", "replayed")
        )
        raw, coco = (file_name(context.settings.staging_uri, f"buckets/{side}") for side in ("laion_2b", "laion_coco"))
    is_replay = isinstance(work, Replay)
    read = {file_name(shard.source, shard.path) for shard in shards} | {raw, coco}
    assert {(each.namespace, each.name) for each in told.inputs} == read | ({rejected} if is_replay else set())
    written = {(each.namespace, each.name): each for each in told.outputs}
    assert written.keys() == {fused, rejected} | ({replayed} if is_replay else set())
    assert [written[each].outputFacets["outputStatistics"].rowCount for each in (fused, rejected)] == [2, 1]
    columns = fields_of(written[fused])
    assert columns["capsfusion"] == {(*raw, "text"), (*coco, "synthetic")}
    assert columns["image_url"] == {(*raw, "url")}
    named = {field.name for field in written[fused].facets["schema"].fields}
    assert columns.keys() <= named
    assert {test.name: test.actual for test in told.run_facets["test"].tests} == {"truncated": "1", "repetition": "1"}
    parameters = {each.key: each.value for each in told.run_facets["executionParameters"].parameters}
    assert parameters.items() >= {"unit_id": "u", "fusion_id": "f1", "model": "demo", "num_beams": "3"}.items()
