from __future__ import annotations

from collections.abc import Set
from pathlib import Path

import pyarrow as pa
import pytest

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import FUSED, PAIRS, SCORES, VALIDATED, Unit
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.validation.tally import Tally
from capsfusion_tasks.validation.units import validate_unit
from capsfusion_tasks.validation.validate import validate_table

UNIT = Unit(unit_id="u1", fusion_id="f1", rows=5, tokens=1000)
GOOD = "The red Mustang 1967 is a car that stands in a street."
CAPTIONS = [GOOD, "", GOOD, "Red cars", GOOD]
FINISH = ["stop", "error: the row is too long", "stop", "stop", "length"]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path))
    storage.write_table(f"units/{UNIT.unit_id}/pairs.parquet", pairs(UNIT.rows))
    return storage


def pairs(rows: int) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "pair_id": row.to_bytes(16, "big"),
                "image_url": f"https://example.com/{row}.jpg",
                "laion_2b": "red Mustang 1967",
                "laion_coco": "A car in a street.",
                "laion_hash": row,
                "similarity": None,
                "punsafe": 0.1,
                "pwatermark": None,
                "laion_2b_shard": "a.parquet",
                "laion_2b_row": row,
                "laion_coco_shard": "b.parquet",
                "laion_coco_row": row,
            }
            for row in range(rows)
        ],
        PAIRS,
    )


def fused(rows: int) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "row": row,
                "input": bytes(16),
                "capsfusion": CAPTIONS[row],
                "finish_reason": FINISH[row],
                "prompt_tokens": 100 + row,
                "caption_tokens": row,
            }
            for row in range(rows)
        ],
        FUSED,
    )


def test_a_unit_is_judged_row_by_row_in_the_order_of_its_pairs(storage: Storage) -> None:
    returned = validate_unit(storage, UNIT, fused(UNIT.rows))

    validated = storage.read_table("units/u1/validated.parquet")
    assert validated.schema.equals(VALIDATED)
    assert returned.equals(validated)
    assert validated["reasons"].to_pylist() == [[], ["failed"], [], ["too_short", "truncated"], ["truncated"]]
    assert validated["capsfusion"].to_pylist() == CAPTIONS
    assert validated["prompt_tokens"].to_pylist() == [100, 101, 102, 103, 104]
    assert validated.select(PAIRS.names).equals(pairs(5))
    assert validated["raw_recall"].to_pylist() == [1.0, 0.0, 1.0, pytest.approx(1 / 3), 1.0]
    tally = Tally().add(validated)
    assert (tally.rows, tally.accepted, tally.rejected, tally.share) == (5, 2, 3, 0.6)
    assert tally.reasons == {"failed": 1, "too_short": 1, "truncated": 2}


def test_a_unit_without_rows_gives_an_empty_file(storage: Storage) -> None:
    storage.write_table("units/u1/pairs.parquet", pairs(0))
    assert validate_unit(storage, UNIT, fused(0)).num_rows == 0
    assert storage.read_table("units/u1/validated.parquet").schema.equals(VALIDATED)


def test_a_table_from_elsewhere_keeps_its_columns_and_order() -> None:
    table = pa.table(
        {
            "id": [7, 3],
            "laion_2b": pa.array(["red Mustang 1967", None], pa.large_string()),
            "laion_coco": pa.array(["a car in a street", "a car"]).dictionary_encode(),
            "caption": [GOOD, None],
        }
    )
    validated = validate_table(table, "caption")
    assert validated.column_names == [*table.column_names, *SCORES.names, "reasons", "flags"]
    assert validated.select(table.column_names).equals(table)
    assert validated["reasons"].to_pylist() == [[], ["empty"]]
    assert validate_table(validated, "caption").equals(validated)  # a second validation replaces the columns


def test_the_same_caption_for_many_pairs_is_rejected_here_and_across_what_is_loaded() -> None:
    raws = [f"red Mustang 1967 number {n}" for n in range(6)]
    table = pa.table({"laion_2b": raws, "laion_coco": ["A car in a street."] * 6, "capsfusion": [GOOD] * 6})
    same = [["same_caption"]] * 6
    assert validate_table(table)["reasons"].to_pylist() == same
    assert validate_table(table.slice(0, 5))["reasons"].to_pylist() == [[]] * 5
    asked: list[set[str]] = []

    def loaded(captions: Set[str]) -> dict[str, set[str]]:
        asked.append(set(captions))
        return {GOOD: {"another Mustang 1967", raws[0]}}

    assert validate_table(table.slice(0, 5), loaded=loaded)["reasons"].to_pylist() == same[:5]
    assert validate_table(table.slice(0, 4), loaded=loaded)["reasons"].to_pylist() == [[]] * 4
    assert asked == [{GOOD}, {GOOD}]
    # Pairs with the same raw caption may have the same caption: they are one image at several addresses.
    often = table.set_column(0, "laion_2b", pa.array(raws[:1] * 6))
    assert validate_table(often)["reasons"].to_pylist() == [[]] * 6


def test_a_column_that_is_missing_or_no_text_is_named() -> None:
    table = pa.table({"laion_2b": ["a"], "laion_coco": [["a"]]})
    with pytest.raises(InputError, match="no column 'capsfusion'; found laion_2b, laion_coco"):
        validate_table(table.set_column(1, "laion_coco", pa.array(["a"])))
    with pytest.raises(InputError, match="column 'laion_coco' contains list<"):
        validate_table(table.append_column("capsfusion", pa.array(["a"])))
