"""Equal captions are found by their text, and are loaded as fast as different ones."""

from __future__ import annotations

import pyarrow as pa
from sqlalchemy import Connection, text

from capsfusion_tasks.warehouse.captions import raws_by_caption
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.load import load_unit
from tests.warehouse.conftest import plan, rows

LONG = "A caption that is longer than an entry of an index can be. " * 1000


def test_captions_are_found_by_their_whole_text(warehouse: Warehouse) -> None:
    plan(warehouse, ("u1", 9))
    captions = ["the same"] * 4 + ["another"] * 3 + [LONG, "rejected"]
    raws = ["0", "1", "2", "3", "one raw", "one raw", "6", "7", "8"]
    loaded = rows(*range(9), rejected={8: ["loop"]})
    for name, values in (("capsfusion", captions), ("laion_2b", raws)):
        loaded = loaded.set_column(loaded.schema.get_field_index(name), loaded.schema.field(name), pa.array(values))
    load_unit(warehouse, "u1", loaded)
    asked = ["the same", "another", LONG, "rejected", "The Same", "a \x00 in it", "a\ttab and \\N"]
    with warehouse.engine.begin() as connection:
        found = raws_by_caption(connection, asked)
    assert found == {"the same": {"0", "1", "2", "3"}, "another": {"one raw", "6"}, LONG: {"7"}}


def test_a_row_costs_no_more_if_many_have_its_caption(warehouse: Warehouse, connection: Connection) -> None:
    plan(warehouse, ("u1", 1))
    add(connection, 1, 20_000, "the same")
    new, same = (add(connection, n, n, caption) for n, caption in ((20_001, "another"), (20_002, "the same")))
    assert same < new + 20


def add(connection: Connection, first: int, last: int, caption: str) -> int:
    """Add an accepted caption for each pair. Returns how many pages this reads."""
    statement = f"""
        explain (analyze, buffers, format json) insert into capsfusion.fused_captions
            (pair_id, fusion_id, image_url, laion_2b, laion_coco, capsfusion, laion_hash, prompt_tokens, caption_tokens,
             finish_reason, laion_2b_shard, laion_2b_row, laion_coco_shard, laion_coco_row, unit_id)
        select md5(n::text)::uuid, 'f1', 'http://' || n, 'raw', 'synthetic', '{caption}', n, 9, 9,
            'stop', 's1', n, 's2', n, 'u1'
        from generate_series({first}, {last}) n
        """
    [plan] = connection.scalar(text(statement)) or []
    return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])
