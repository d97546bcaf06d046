"""Files contain the other captions of a beam search only if the fusion's settings keep them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from torch.distributed import HashStore

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.fusion import chunks
from capsfusion_tasks.fusion.engine import Beam, Completion, Occupancy, Request
from capsfusion_tasks.fusion.feed import Prepared
from capsfusion_tasks.fusion.files import TakeBeam, fuse_file
from capsfusion_tasks.fusion.identity import decide
from capsfusion_tasks.fusion.job import FuseJob
from capsfusion_tasks.fusion.results import Results
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from capsfusion_tasks.schemas import FUSED, FUSED_WITH_BEAMS
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.staging.storage import Storage


@pytest.fixture(scope="module")
def tokenizer() -> LlamaTokenizer:
    return LlamaTokenizer(BUNDLED_MODEL / "tokenizer.model")


@pytest.mark.parametrize("keep_beams", [True, False])
def test_chunks_have_the_other_beams_only_if_the_fusion_keeps_them(
    tokenizer: LlamaTokenizer, tmp_path: Path, keep_beams: bool
) -> None:
    settings = load_settings(home=tmp_path / "home", keep_beams=keep_beams)
    job = FuseJob.of(settings, decide(settings), staging=str(tmp_path), pairs="pairs", chunks="chunks")
    red, car = (tokenizer.encode(word, bos=False) for word in ("red", "car"))
    with Results(job, Storage(job.staging), HashStore(), tokenizer, Occupancy()) as results:
        results.expect(Prepared({0: bytes(16), 1: bytes(16)}, [Request(0, [1] * 7)], []))
        others = (Beam(car, "length", 3),) if keep_beams else ()
        results.add(Completion(0, red, "stop", 2, others=others))
        results.add(Completion(1, [], "error: laion_2b is empty", 0))
    [path] = Storage(job.staging).files("chunks")
    table = Storage(job.staging).read_table(path).replace_schema_metadata(None)
    assert table.schema.equals(FUSED_WITH_BEAMS if keep_beams else FUSED)
    if keep_beams:
        kept = [{"capsfusion": "car", "finish_reason": "length", "caption_tokens": 3}]
        assert table["other_beams"].to_pylist() == [kept, []]
    assert chunks.collect(Storage(job.staging), "chunks", job.fusion_id, 2, table.column_names).equals(table)


def last_beam(table: pa.Table) -> pa.Table:
    """The worst kept caption of each row's beam search."""
    found = [(row["other_beams"] or [row])[-1]["capsfusion"] for row in table.to_pylist()]
    return pa.table({"capsfusion": found, "beam": [1 + len(row) for row in table["other_beams"].to_pylist()]})


@pytest.mark.usefixtures("one_process")
def test_a_file_has_the_captions_that_are_taken(tiny_model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    pairs = [{"laion_2b": f"Street {n}", "laion_coco": "A street with cars."} for n in range(6)]
    pairs.append({"laion_2b": "", "laion_coco": "A street."})
    source.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))

    def fused(*, keep_beams: bool, take_beam: TakeBeam | None = None) -> tuple[list[str | None], int]:
        settings = load_settings(
            model=str(tiny_model), max_new_tokens=6, keep_beams=keep_beams, home=tmp_path, engine="transformers"
        )
        target = tmp_path / "out.jsonl"
        result = fuse_file(source, target, settings, take_beam=take_beam, overwrite=True, on_line=lambda _: None)
        return [json.loads(line)["capsfusion"] for line in target.read_text().splitlines()], result.rescued

    best = fused(keep_beams=False, take_beam=last_beam)
    assert best[0][-1] is None
    assert fused(keep_beams=True) == best == (best[0], 0)
    last, rescued = fused(keep_beams=True, take_beam=last_beam)
    assert rescued == 6
    assert last[-1] is None
    assert sum(one != other for one, other in zip(last, best[0], strict=True)) >= 3
