from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.pairing.columns import Counts, canonical_rows, source_columns
from capsfusion_tasks.schemas import BUCKET_ROWS, Side
from capsfusion_tasks.settings import load_settings

SETTINGS = load_settings()


def canonical(table: pa.Table, side: Side = "laion_2b", **options: Any) -> tuple[list[dict[str, Any]], Counts]:
    settings = load_settings(**options)
    names = source_columns(table.schema, side, settings, "shard")
    counts = Counts()
    batch = table.combine_chunks().to_batches()[0]
    rows = canonical_rows(batch, names, 100, side, settings, counts)
    assert rows.schema.names == [*BUCKET_ROWS.names, "usable"]
    return rows.filter(rows["usable"]).select(BUCKET_ROWS.names).cast(BUCKET_ROWS).to_pylist(), counts


@pytest.mark.parametrize(
    ("url", "text"),
    [("URL", "TEXT"), ("url", "caption"), ("Url", "alt_text")],
    ids=["laion2B-en", "relaion2B", "mixed"],
)
def test_columns_are_found_under_each_releases_names(url: str, text: str) -> None:
    rows, _ = canonical(pa.table({"KEY": [1], url: ["u"], text: ["t"]}))
    assert (rows[0]["url"], rows[0]["text"], rows[0]["row"]) == ("u", "t", 100)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array(["u"], pa.large_string()), "large_string"),
        (pa.array(["u"]).dictionary_encode(), "dictionary"),
        (pa.array([b"u"], pa.binary()), "binary"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_text_of_any_arrow_type_is_read(column: pa.Array, kind: str) -> None:
    rows, _ = canonical(pa.table({"URL": column, "TEXT": ["t"], "punsafe": pa.array([0.25], pa.float32())}))
    assert (rows[0]["url"], rows[0]["punsafe"]) == ("u", 0.25)


def test_a_licence_that_laion_did_not_find_is_null() -> None:
    table = pa.table({"URL": ["u"] * 5, "TEXT": ["t"] * 5, "LICENSE": ["?", "", None, " ? ", " cc-by-2.0 "]})
    assert [row["license"] for row in canonical(table)[0]] == [None, None, None, None, "cc-by-2.0"]


def test_the_status_of_a_release_says_whether_an_image_is_gone() -> None:
    said = ["success", "failed_to_download", "failed_to_resize", "Success", "", None]
    table = pa.table({"URL": ["u"] * 6, "TEXT": ["t"] * 6, "status": said})
    assert [row["gone"] for row in canonical(table)[0]] == [False, True, False, None, None, None]


def test_a_licence_or_a_status_that_is_no_text_is_not_read() -> None:
    table = pa.table({"URL": ["u"], "TEXT": ["t"], "LICENSE": [4], "status": [200]})
    [row], counts = canonical(table)
    assert (row["license"], row["gone"], counts.dropped) == (None, None, {})


def test_bytes_that_are_no_utf8_cost_no_row() -> None:
    text = pa.array([b"caf\xe9", b"fine"], pa.binary()).view(pa.string())
    rows, _ = canonical(pa.table({"URL": ["a", "b"], "TEXT": text}))
    assert [row["text"] for row in rows] == ["caf\ufffd", "fine"]


def test_each_dropped_row_counts_under_the_first_reason_that_applies() -> None:
    table = pa.table(
        {
            "URL": ["a", None, " \t", "d", "e", "f", "g", "h"],
            "TEXT": ["x", "x", None, "", "x", "x", "x", "x"],
            "punsafe": [0.1, 0.9, 0.1, 0.9, 0.5, 0.6, None, 0.49],
            "pwatermark": [0.1, 0.1, 0.1, 0.1, 0.9, 0.1, 0.8, 0.79],
        }
    )
    rows, counts = canonical(table)
    assert [row["url"] for row in rows] == ["a", "h"]
    assert counts == Counts(8, {"null_url": 2, "null_caption": 1, "unsafe": 2, "watermarked": 1})


def test_a_score_is_the_same_whatever_float_a_release_stores_it_in() -> None:
    scores = [
        canonical(pa.table({"URL": ["a"], "TEXT": ["x"], "pwatermark": pa.array([0.46], kind)}))[0][0]["pwatermark"]
        for kind in (pa.float32(), pa.float64())
    ]
    assert scores == [0.46, 0.46]


def test_a_score_that_no_float_can_hold_exactly_is_rounded() -> None:
    scores = pa.array([2**60 + 1, 2**53 + 1, 0], pa.int64())
    rows, counts = canonical(pa.table({"URL": ["u"] * 3, "TEXT": ["t"] * 3, "punsafe": scores, "similarity": scores}))
    assert ([row["similarity"] for row in rows], counts.dropped) == ([0.0], {"unsafe": 2})


def test_unknown_safety_scores_are_kept() -> None:
    table = pa.table({"URL": ["a"], "TEXT": ["x"], "punsafe": pa.nulls(1, pa.float64()), "pwatermark": pa.nulls(1)})
    rows, counts = canonical(table)
    assert (len(rows), counts.dropped) == (1, {})


def test_unknown_safety_scores_are_dropped_where_asked() -> None:
    table = pa.table(
        {
            "URL": ["a", "b", "c", "d"],
            "TEXT": ["x"] * 4,
            "punsafe": [0.1, None, 0.1, 0.9],
            "pwatermark": [0.1, 0.1, None, None],
        }
    )
    rows, counts = canonical(table, unscored="drop")
    assert [row["url"] for row in rows] == ["a"]
    assert counts.dropped == {"unsafe": 1, "unscored": 2}


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_is_unknown(kind: pa.DataType, value: float) -> None:
    scores = pa.array(np.array([0.25, value], kind.to_pandas_dtype()))
    table = pa.table(
        {"URL": ["a", "b"], "TEXT": ["x"] * 2, "similarity": scores, "punsafe": scores, "pwatermark": [0.1, 0.1]}
    )
    rows, counts = canonical(table)
    assert [(row["similarity"], row["punsafe"]) for row in rows] == [(0.25, 0.25), (None, None)]
    assert canonical(table, unscored="drop")[1].dropped == {"unscored": 1}
    assert counts.dropped == {}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["url", "URL", "TEXT"], r"\(url and URL\)"),
        (["URL", "TEXT", "Text", "text"], r"\(TEXT and Text and text\)"),
        (["URL", "TEXT", "punsafe", "PUNSAFE"], r"\(punsafe and PUNSAFE\)"),
        (["URL", "URL", "TEXT"], r"\(URL and URL\)"),
    ],
)
def test_a_column_that_a_file_has_twice_in_any_case_is_refused(names: list[str], message: str) -> None:
    schema = pa.schema([(name, pa.float32() if name.lower() == "punsafe" else pa.string()) for name in names])
    with pytest.raises(InputError, match=f"here has the same column more than once {message}"):
        source_columns(schema, "laion_2b", SETTINGS, "here")
    other = pa.schema([("URL", pa.string()), ("TEXT", pa.string()), ("key", pa.string()), ("KEY", pa.string())])
    assert source_columns(other, "laion_2b", SETTINGS, "here") == {"url": "URL", "text": "TEXT"}


def test_text_stays_as_it_came() -> None:
    text = "  Two  spaces &quot;quoted&quot;\x00\n"
    rows, _ = canonical(pa.table({"URL": [" u "], "TEXT": [text]}))
    assert (rows[0]["url"], rows[0]["text"]) == (" u ", text)


def test_a_missing_column_names_the_file_what_it_has_and_what_it_needs() -> None:
    with pytest.raises(
        InputError, match=r"shard lacks a column for text \(named text or caption or alt_text\); it has URL, x"
    ):
        canonical(pa.table({"URL": ["u"], "x": [1]}))


def test_laion_coco_without_raw_text_needs_the_join_on_url() -> None:
    table = pa.table({"URL": ["u"], "top_caption": ["A car."]})
    with pytest.raises(InputError, match="with CAPSFUSION_JOIN_ON=url, LAION-COCO needs no text"):
        canonical(table, "laion_coco")
    with pytest.raises(InputError, match="lacks a column for text"):
        canonical(table, "laion_coco", join_on="url", laion2b="none")
    rows, _ = canonical(table, "laion_coco", join_on="url")
    assert (rows[0]["synthetic"], rows[0]["text"]) == ("A car.", None)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"URL": pa.array([1, 2])}, "URL is int64, expected text"),
        ({"TEXT": pa.array([["a"], ["b"]])}, "TEXT is list<.*>, expected text"),
        ({"punsafe": pa.array(["0.1", "high"])}, "punsafe is string, expected a number"),
        ({"similarity": pa.array([{"a": 1}, {"a": 2}])}, "similarity is struct<.*>, expected a number"),
    ],
)
def test_a_column_of_another_kind_names_the_file_and_what_it_needs(column: dict[str, pa.Array], message: str) -> None:
    table = pa.table({"URL": ["u", "v"], "TEXT": ["a", "b"], **column})
    with pytest.raises(InputError, match=rf"here/a\.parquet: {message}"):
        source_columns(table.schema, "laion_2b", load_settings(), "here/a.parquet")
