"""The inputs and outputs of a task, as OpenLineage datasets and facets.

This module is imported only if OpenLineage is switched on.

The lineage of columns has two steps: from a shard to the buckets of its side (``of_pull``), and from the buckets to the
tables (``of_load``). With one step, the event of a unit would repeat each column for each of the unit's shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    RunFacet,
    column_lineage_dataset,
    data_quality_metrics_input_dataset,
    dataset_version_dataset,
    execution_parameters_run,
    output_statistics_output_dataset,
    schema_dataset,
    test_run,
)

from capsfusion_tasks.context import Context
from capsfusion_tasks.schemas import BUCKET_ROWS, Shard, Side, Unit
from capsfusion_tasks.tasks.dataset_names import DatasetName, file_name, table_name
from capsfusion_tasks.warehouse import queries
from capsfusion_tasks.warehouse.caption_tables import fused_captions, rejected_captions, replayed_captions
from capsfusion_tasks.warehouse.export_selection import PUBLISHED_COLUMNS
from capsfusion_tasks.warehouse.lineage import is_replay, shards_of_unit
from capsfusion_tasks.warehouse.schema import metadata

Column = tuple[DatasetName, str]

_FUSION = ("fusion_id", "model", "model_revision", "engine", "dtype", "num_beams", "max_new_tokens")


@dataclass(frozen=True)
class TaskLineage:
    inputs: list[InputDataset]
    outputs: list[OutputDataset]
    run_facets: dict[str, RunFacet] = field(default_factory=dict)


def of_pull(context: Context, shard: Shard, counts: Mapping[str, Any]) -> TaskLineage:
    """Lineage from a shard to the buckets of its side. ``counts``: the result of the task ``pull``.

    If rows were dropped, each reason is reported as a failed OpenLineage test.
    """
    source, buckets = file_name(shard.source, shard.path), _buckets(context, shard.side)
    quality = data_quality_metrics_input_dataset.DataQualityMetricsInputDatasetFacet(
        columnMetrics={}, rowCount=counts["rows"], bytes=shard.size_bytes
    )
    read = InputDataset(*source, facets=_version(shard.etag), inputFacets={"dataQualityMetrics": quality})
    columns = {canonical: _copied((source, own)) for canonical, own in counts["columns"].items()}
    written = OutputDataset(
        *buckets,
        facets={"schema": _schema((each.name, str(each.type)) for each in BUCKET_ROWS), **_columns(columns)},
        outputFacets=_rows(counts["rows"] - sum(counts["dropped"].values())),
    )
    return TaskLineage([read], [written], _tests(counts["dropped"]))


def of_load(context: Context, unit: Unit, counts: Mapping[str, Any]) -> TaskLineage:
    """Lineage from a unit's shards and the buckets to the caption tables. ``counts``: the result of the task ``load``.

    Facets name the model and count the rejected captions by reason. A replay's unit also reads ``rejected_captions``
    and writes ``replayed_captions``.
    """
    with context.warehouse.engine.connect() as connection:
        shards = shards_of_unit(connection, unit.unit_id)
        reasons = queries.rejections_by_reason(connection, queries.Scope(unit_ids=[unit.unit_id]))
        replay = is_replay(connection, unit.unit_id)
    sides: list[Side] = ["laion_coco"] if context.settings.self_paired else ["laion_2b", "laion_coco"]
    read = [InputDataset(*file_name(each.source, each.path), facets=_version(each.etag)) for each in shards]
    read += [InputDataset(*_buckets(context, side)) for side in sides]
    columns = _columns(_caption_columns(context, unit, sides), joined_on=_join_columns(context, sides))
    written = [
        _table(context, fused_captions.name, columns, counts["accepted"]),
        _table(context, rejected_captions.name, columns, counts["rejected"]),
    ]
    if replay:
        read.append(InputDataset(*table_name(context.warehouse.url, rejected_captions.name)))
        written.append(_table(context, replayed_captions.name, {}, None))
    return TaskLineage(read, written, _tests(reasons) | _fusion(context, unit))


def of_export(context: Context, exported: Mapping[str, Any]) -> TaskLineage:
    """Lineage from the table of accepted captions to an export. ``exported``: the result of the task ``export``."""
    captions, target = table_name(context.warehouse.url, fused_captions.name), file_name(exported["target"])
    columns = {column: _copied((captions, column)) for column in PUBLISHED_COLUMNS}
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=exported["rows"], fileCount=exported["files"]
    )
    written = OutputDataset(*target, facets=_columns(columns), outputFacets={"outputStatistics": statistics})
    return TaskLineage([InputDataset(*captions)], [written])


def _buckets(context: Context, side: Side) -> DatasetName:
    return file_name(context.settings.staging_uri, f"buckets/{side}")


def _table(context: Context, name: str, columns: dict[str, Any], rows: int | None) -> OutputDataset:
    table = metadata.tables[f"{metadata.schema}.{name}"]
    facets = {"schema": _schema((column.name, str(column.type)) for column in table.columns), **columns}
    return OutputDataset(
        *table_name(context.warehouse.url, name), facets=facets, outputFacets={} if rows is None else _rows(rows)
    )


def _caption_columns(context: Context, unit: Unit, sides: list[Side]) -> dict[str, Any]:
    """Column of a caption table → the bucket columns that the column is made from."""
    raw, coco = _buckets(context, sides[0]), _buckets(context, sides[-1])
    both: list[Column] = [(raw, "text"), (coco, "synthetic")]
    fused = _made("TRANSFORMATION", f"fused by {context.decoding_of(unit.fusion_id).description}", *both)
    url: Column = (raw, "url")
    scores = {
        name: _made(
            "TRANSFORMATION",
            "similarity: of the raw row, or else of the synthetic row; punsafe, pwatermark: the higher value of both",
            *dict.fromkeys([(raw, name), (coco, name)]),
        )
        for name in ("similarity", "punsafe", "pwatermark")
    }
    licensed = _made(
        "TRANSFORMATION", "the raw row's licence, or else the synthetic row's", (raw, "license"), (coco, "license")
    )
    return {
        "image_url": _copied(url),
        "laion_2b": _copied(both[0]),
        "laion_coco": _copied(both[1]),
        "capsfusion": fused,
        "pair_id": _made("TRANSFORMATION", "a digest of these columns", url, *both),
        "laion_hash": _made("TRANSFORMATION", "LAION's own hash", url, both[0]),
        "laion_2b_row": _copied((raw, "row")),
        "laion_coco_row": _copied((coco, "row")),
        "license": licensed,
        **scores,
    }


def _join_columns(context: Context, sides: list[Side]) -> list[Column]:
    names = ["url", "text"] if context.settings.join_on == "url_text" else ["url"]
    return [(_buckets(context, side), name) for side in sides for name in names] if len(sides) > 1 else []


def _copied(column: Column) -> Any:
    return _made("IDENTITY", None, column)


def _made(subtype: str, how: str | None, *columns: Column) -> Any:
    step = column_lineage_dataset.Transformation(type="DIRECT", subtype=subtype, description=how, masking=False)
    return column_lineage_dataset.Fields(
        inputFields=[column_lineage_dataset.InputField(*dataset, name, [step]) for dataset, name in columns]
    )


def _columns(made: dict[str, Any], joined_on: Iterable[Column] = ()) -> dict[str, Any]:
    """The facet of column lineage. Empty if ``made`` has no columns, as for shards that an earlier version pulled."""
    if not made:
        return {}
    join = column_lineage_dataset.Transformation(type="INDIRECT", subtype="JOIN", masking=False)
    whole = [column_lineage_dataset.InputField(*dataset, name, [join]) for dataset, name in joined_on]
    return {"columnLineage": column_lineage_dataset.ColumnLineageDatasetFacet(fields=made, dataset=whole)}


def _schema(columns: Iterable[tuple[str, str]]) -> Any:
    return schema_dataset.SchemaDatasetFacet(
        fields=[schema_dataset.SchemaDatasetFacetFields(name=name, type=kind) for name, kind in columns]
    )


def _version(etag: str) -> dict[str, Any]:
    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=etag)}


def _rows(rows: int) -> dict[str, Any]:
    return {"outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=rows)}


def _tests(failed: Mapping[str, int]) -> dict[str, RunFacet]:
    """One failed OpenLineage test per reason for dropped rows or rejected captions. ``actual`` is their number."""
    tests = [
        test_run.TestExecution(name=reason, status="fail", severity="warn", type="row_rule", actual=str(rows))
        for reason, rows in failed.items()
    ]
    return {"test": test_run.TestRunFacet(tests=tests)} if tests else {}


def _fusion(context: Context, unit: Unit) -> dict[str, RunFacet]:
    decoding = context.decoding_of(unit.fusion_id)
    values = {"unit_id": unit.unit_id, **{name: getattr(decoding, name) for name in _FUSION}}
    parameters = [
        execution_parameters_run.ExecutionParameter(key=key, value=str(value)) for key, value in values.items()
    ]
    return {"executionParameters": execution_parameters_run.ExecutionParametersRunFacet(parameters=parameters)}
