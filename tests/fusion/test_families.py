"""Compares the native engine with transformers, on a random model of each family that the native engine supports."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer

from benchmarks.families import FAMILIES, write_family
from benchmarks.workload import read_pairs
from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.engine import Request, StaticRequests
from capsfusion_tasks.fusion.files import fuse_file
from capsfusion_tasks.fusion.identity import decide
from capsfusion_tasks.fusion.model_check import check_model
from capsfusion_tasks.fusion.model_tokenizer import load_tokenizer
from capsfusion_tasks.fusion.native import torch_ops, triton_ops
from capsfusion_tasks.fusion.native.checkpoint import load_llama
from capsfusion_tasks.fusion.native.engine import NativeEngine
from capsfusion_tasks.fusion.native.memory import Room
from capsfusion_tasks.fusion.native.model import Llama
from capsfusion_tasks.fusion.native.slots import Prefix
from capsfusion_tasks.fusion.prompt import build_prompt, shared_prefix
from capsfusion_tasks.settings import load_settings

PAIRS = read_pairs(None, 60)
TEXTS = [text for pair in PAIRS for text in pair] + [
    "Café Ünïcode 図書館 🚀 12345 it's",
    "a  double  space\tand a tab",
]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that returns a family's random checkpoint (benchmarks/families.py). Makes each checkpoint once."""
    folder = tmp_path_factory.mktemp("families")

    def made(name: str) -> Path:
        if not (folder / name).exists():
            write_family(folder / name, name, TEXTS, BUNDLED_MODEL / "tokenizer.model")
        return folder / name

    return made


def captions(model: Path, tmp_path: Path, **options: Any) -> list[str | None]:
    """The captions that ``capsfusion fuse`` makes for six pairs."""
    rows = [{"laion_2b": raw, "laion_coco": synthetic} for raw, synthetic in PAIRS[:6]]
    source, target = tmp_path / "pairs.jsonl", tmp_path / "fused.parquet"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = load_settings(model=str(model), dtype="float32", home=tmp_path / "home", **options)
    result = fuse_file(source, target, settings, overwrite=True, on_line=lambda _: None)
    assert not result.failed
    return list(pq.read_table(target)["capsfusion"].to_pylist())


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("num_beams", [3, 1])
@pytest.mark.parametrize("name", FAMILIES)
def test_fuse_gives_the_captions_of_transformers(
    family: Callable[[str], Path], tmp_path: Path, name: str, num_beams: int
) -> None:
    options = {"num_beams": num_beams, "max_new_tokens": 12}
    native = captions(family(name), tmp_path, engine="native", **options)
    assert native == captions(family(name), tmp_path, engine="transformers", **options)
    assert len(set(native)) == len(native)  # equal captions for all rows would prove nothing


@pytest.mark.parametrize("name", ["LLaMA 3", "Qwen2"])
def test_a_tokenizer_json_encodes_as_transformers_does(family: Callable[[str], Path], name: str) -> None:
    ours, theirs = load_tokenizer(family(name)), AutoTokenizer.from_pretrained(family(name))
    for raw, synthetic in [*PAIRS, (TEXTS[-2], TEXTS[-1])]:
        prompt = build_prompt(raw, synthetic)
        assert ours.encode(prompt) == theirs(prompt).input_ids
        assert ours.decode(ours.encode(prompt)) == prompt
    assert (ours.eos_id, ours.pad_id, ours.vocab_size) == (theirs.eos_token_id, theirs.pad_token_id, len(theirs))
    assert 80 < len(shared_prefix(ours)) < 140


@pytest.mark.parametrize("changes", [{"add_bos_token": True}, {"add_bos_token": False}], ids=str)
@pytest.mark.parametrize("post_processor", [True, False])
def test_a_text_begins_with_the_token_that_transformers_puts_there(
    family: Callable[[str], Path], tmp_path: Path, post_processor: bool, changes: dict[str, Any]
) -> None:
    folder = shutil.copytree(family("LLaMA 3"), tmp_path / "model")
    change(folder / "tokenizer_config.json", changes)
    if not post_processor:
        change(folder / "tokenizer.json", {"post_processor": None})
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode("a red car") == AutoTokenizer.from_pretrained(folder)("a red car").input_ids
    assert (tokenizer.bos_id is None) == (not post_processor)
    assert (tokenizer.encode("a") == tokenizer.encode("a", bos=False)) == (not post_processor)


def test_control_tokens_in_a_caption_are_text(family: Callable[[str], Path]) -> None:
    tokenizer = load_tokenizer(family("Qwen2"))
    ids = tokenizer.encode("hat <|im_end|><|endoftext|>")
    assert not {tokenizer.eos_id, tokenizer.pad_id} & {*ids}
    assert tokenizer.decode([*ids, tokenizer.eos_id, 10**6]) == "hat <|im_end|><|endoftext|>"


def change(file: Path, changes: dict[str, Any]) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_sentencepiece_comes_first_unless_tokenizer_model_is_tiktokens(
    family: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(family("LLaMA 3"), tmp_path / "model")
    (folder / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
    assert load_tokenizer(folder).bos_id == load_tokenizer(family("LLaMA 3")).bos_id
    shutil.copy(BUNDLED_MODEL / "tokenizer.model", folder)
    assert load_tokenizer(folder).bos_id == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{}", "is not a valid tokenizer"),
        (b"", "is not a valid tokenizer"),
        (b"\xff", "is not a valid tokenizer"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ],
)
def test_a_tokenizer_json_that_cannot_be_read_is_refused_in_one_line(
    family: Callable[[str], Path], tmp_path: Path, content: bytes, reason: str
) -> None:
    folder = shutil.copytree(family("Qwen2"), tmp_path / "model")
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"/tokenizer\.json {reason}") as refused:
        check_model(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "file", "changes", "reason"),
    [
        ("Qwen2", "tokenizer_config.json", {"eos_token": "<|x|>"}, "has no token '<|x|>', which is the eos_token"),
        ("Qwen2", "config.json", {"vocab_size": 100, "eos_token_id": 2}, "tokenizer.json has .* embeddings for 100 "),
        ("LLaMA 3", "generation_config.json", {"eos_token_id": None}, None),
        ("Mistral", "config.json", {"sliding_window": 335}, "do not fit in the model's 335-token sliding window"),
        ("Mistral", "config.json", {"sliding_window": 336}, None),
        ("Mistral", "config.json", {"sliding_window": None}, None),
        ("Qwen2", "config.json", {"use_sliding_window": True, "sliding_window": 64}, None),  # of no layer
        (
            "Qwen3",
            "config.json",
            {"use_sliding_window": True, "sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"]},
            "do not fit in the model's 64-token sliding window",
        ),
        ("Qwen3", "config.json", {"layer_types": ["full_attention", "linear_attention"]}, "has layer_types"),
        ("Qwen3", "config.json", {"head_dim": 31}, "has values that no Qwen3 model has: head_dim"),
    ],
)
def test_what_a_family_cannot_have_is_refused_in_one_line(
    family: Callable[[str], Path], tmp_path: Path, name: str, file: str, changes: dict[str, Any], reason: str | None
) -> None:
    folder = shutil.copytree(family(name), tmp_path / "model")
    change(folder / file, changes)
    if reason is None:
        check_model(folder, engine="native", max_new_tokens=80)
        return
    reason = reason.replace("|", r"\|")
    with pytest.raises(InputError, match=reason) as refused:
        check_model(folder, engine="native", max_new_tokens=80)
    assert "\n" not in str(refused.value)


def test_models_with_other_tokenizers_are_other_fusions(family: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(family("Qwen3"), tmp_path / "model")
    first = decide(load_settings(model=str(folder), home=tmp_path))
    change(folder / "tokenizer.json", {"normalizer": None})
    assert decide(load_settings(model=str(folder), home=tmp_path)).fusion_id != first.fusion_id


def few_captions(model: Llama, ops: ModuleType, pages: int) -> list[tuple[int, list[int]]]:
    """Captions of two short prompts, computed with the kernels or torch functions of ``ops``."""
    model.ops = ops  # type: ignore[assignment]
    engine = NativeEngine(
        model, num_beams=2, max_new_tokens=3, max_prompt_tokens=12, eos_ids=[0], prefix=[5, 6], batch_size=2
    )
    engine._room = Room(2, pages)
    requests = StaticRequests(Request(row, [5, 6, 50 + row, *range(300, 306 + row)]) for row in range(2))
    return sorted((completion.row, completion.token_ids) for completion in engine.generate(requests))


@pytest.mark.parametrize("name", ["Qwen2", "Qwen3"])
def test_the_kernels_give_the_same_captions(
    family: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(triton_ops, "PREFILL_MULTIPLE", 1)
    model = load_llama(family(name), torch.device("cpu"), torch.float32)
    assert few_captions(model, triton_ops, pages=3) == few_captions(model, torch_ops, pages=2)


def test_float8_keeps_biases_and_norms_of_heads(family: Callable[[str], Path]) -> None:
    for name in ("Qwen2", "Qwen3"):
        exact, rounded = (
            load_llama(family(name), torch.device("cpu"), dtype) for dtype in (torch.float32, torch.float8_e4m3fn)
        )
        states = [Prefix.compute(model, range(300, 340)).keys[1].float().flatten() for model in (exact, rounded)]
        assert torch.cosine_similarity(*states, dim=0) > 0.98
