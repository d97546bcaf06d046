"""The names of releases are short, never empty, and different for different sources."""

from __future__ import annotations

import pytest

from capsfusion_tasks.warehouse.provenance import release_names


@pytest.mark.parametrize(
    "names",
    [
        {"/home/alice/laion2B-en/": "laion2B-en"},
        {"s3://private-bucket/laion2B-en": "laion2B-en", "s3://other-bucket": "other-bucket"},
        {"hf://datasets/laion/laion-coco@main": "hf://datasets/laion/laion-coco@main"},
        {
            "http://mirror.internal/laion2B-en/list.json": "laion2B-en",
            "https://mirror.internal/list.txt": "mirror.internal",
        },
        {"/": "/", "/data": "data"},
        {"/data/laion2B-en/parquet": "laion2B-en/parquet", "/data/laion400m/parquet": "laion400m/parquet"},
        {"/a/x/raw": "a/x/raw", "/b/x/raw": "b/x/raw", "/b/y/raw": "y/raw", "/b/z": "z"},
        {"/x/raw": "/x/raw", "s3://a/x/raw": "a/x/raw", "/raw": "/raw"},
        {"/a/x": "/a/x", "s3://a/x": "s3://a/x"},
        {"https://h/x/1.json": "x/1.json", "https://h/x/2.json": "x/2.json"},
    ],
    ids=lambda names: next(iter(names)),
)
def test_each_source_has_a_short_name_of_its_own(names: dict[str, str]) -> None:
    assert release_names(names) == names
    assert release_names(reversed(names)) == names
