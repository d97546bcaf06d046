"""``capsfusion lake …``: the commands that write and maintain the Iceberg table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from capsfusion_tasks.cli.common import progress_line, settings_to_read, stderr


def lake_sync() -> None:
    """Write the captions of loaded units to the Iceberg table that CAPSFUSION_LAKE_TABLE names.

    Each unit (a batch of pairs) becomes one snapshot. Skips units that are in the table already, so you can run the
    command at any time, even after it was killed.

    Example: CAPSFUSION_LAKE_TABLE=captions.fused capsfusion lake sync
    """
    from capsfusion_tasks.context import open_context
    from capsfusion_tasks.tasks.lake_tasks import sync_lake
    from capsfusion_tasks.terminal import Working

    with Working(stderr) as working, open_context(settings_to_read()) as context:
        done = sync_lake(context, say=working.say)
    found = f"; {done.found} units were in the table already" if done.found else ""
    progress_line(f"{done.units} units with {done.rows} captions written{found}")


def lake_maintain(
    keep_days: Annotated[
        float | None,
        typer.Option(
            help="Keep snapshots for this many days, so that queries can read them. Default:"
            " CAPSFUSION_LAKE_KEEP_DAYS.",
            min=0,
            max=36500,
        ),
    ] = None,
    min_files: Annotated[
        int, typer.Option(help="Rewrite partitions with at least this many files smaller than 32 MB.", min=2)
    ] = 8,
) -> None:
    """Merge small files of the Iceberg table, and remove old snapshots with their files.

    First writes loaded units (batches of pairs) that are not in the table yet. A query fails if its snapshot is
    removed, so keep snapshots for longer than any query runs.

    Example: capsfusion lake maintain --keep-days 30
    """
    from capsfusion_tasks.context import open_context
    from capsfusion_tasks.tasks.lake_tasks import maintain_lake
    from capsfusion_tasks.terminal import Working

    settings = settings_to_read(lake_keep_days=keep_days)
    before = datetime.now(UTC) - timedelta(days=settings.lake_keep_days)
    with Working(stderr) as working, open_context(settings) as context:
        done = maintain_lake(context, before=before, min_files=min_files, say=working.say)
    progress_line(
        f"{done.partitions} partitions rewritten, {done.snapshots} snapshots and {done.files} unused files removed"
    )
