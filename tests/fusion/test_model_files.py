"""Tests which files of a model folder are used, what their settings mean, and the errors for damaged folders."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceTrainer

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.identity import decide
from capsfusion_tasks.fusion.model_check import check_model
from capsfusion_tasks.fusion.model_files import eos_token_ids, model_folder
from capsfusion_tasks.fusion.weight_files import refuse_misfit, unread_files, weight_files
from capsfusion_tasks.settings import load_settings

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 499723\n"
CONFIG = (BUNDLED_MODEL / "config.json").read_bytes()
TIKTOKEN = b"".join(base64.b64encode(bytes([byte])) + b" %d\n" % byte for byte in range(256))
TOKENIZER = (BUNDLED_MODEL / "tokenizer.model").read_bytes()


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("data.pkl", b"numbers")
    return stream.getvalue()


WEIGHTS = (BUNDLED_MODEL / "model.safetensors").read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The demo model, without its weights."""
    return Path(shutil.copytree(BUNDLED_MODEL, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors")))


def change(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def files(folder: Path, **contents: object) -> Path:
    """Write files to ``folder``: name → bytes, or a value that is written as JSON. __ in a name stands for a dot."""
    for name, content in contents.items():
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (CONFIG[:200], "is not JSON: .* The file may be cut off"),
        (b"", "is not JSON"),
        (POINTER, "is a Git LFS pointer.*: run git lfs pull"),
        (b"\xef\xbb\xbf" + CONFIG, "begins with a byte order mark"),
        (b"[1, 2]", "holds a JSON list, not an object"),
        (b'"llama"', "holds a JSON str, not an object"),
        (b'{"a": "\xff"}', "is not JSON: 'utf-8' codec"),
        (b"[" * 100_000, "is not JSON: .*recursion"),
        (b'{"vocab_size": 1' + b"0" * 5000 + b"}", "is not JSON: .*4300 digits"),
    ],
    ids=["cut off", "empty", "pointer", "BOM", "list", "text", "Latin-1", "deep", "long number"],
)
def test_json_that_cannot_be_read_is_refused_in_one_line(folder: Path, name: str, content: bytes, reason: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"^\S*/{name} {reason}") as refused:
        check_model(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vocab_size": "32001"}, "vocab_size: Input should be a valid integer, not '32001'"),
        ({"hidden_size": 64.5}, "hidden_size: Input should be a valid integer"),
        ({"num_hidden_layers": True}, "num_hidden_layers: Input should be a valid integer"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: Input should be less than"),
        ({"num_attention_heads": 0}, "num_attention_heads: Input should be greater than 0"),
        ({"num_key_value_heads": 3}, "num_attention_heads .4. is not a multiple of num_key_value_heads .3."),
        ({"head_dim": 63}, "head_dim: Input should be a multiple of 2"),
        ({"rope_theta": "1e4"}, "rope_theta: Input should be a valid number"),
        ({"rms_norm_eps": 1e308}, "rms_norm_eps: Input should be less than or equal to 1"),
        ({"rope_scaling": {"type": "linear", "factor": False}}, "rope.factor: Input should be a valid number"),
        ({"rope_parameters": {"rope_type": "yarn", "attention_factor": [1]}}, "rope.attention_factor: Input should be"),
        ({"rope_scaling": {"type": "yarn", "partial_rotary_factor": 0.5}}, "rope.partial_rotary_factor: Input should"),
        ({"rope_scaling": ["linear"]}, "rope_scaling or rope_parameters is not a JSON object"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("engine", ["native", "transformers"])
def test_numbers_that_no_llama_has_are_named(folder: Path, engine: str, changes: dict[str, Any], reason: str) -> None:
    change(folder / "config.json", **changes)
    with pytest.raises(InputError, match=rf"/config\.json has values that no LLaMA model has: .*{reason}"):
        check_model(folder, engine=engine)


@pytest.mark.parametrize("config", [{"quant_method": "gptq"}, {"quant_method": "fp8"}, {"load_in_8bit": True}])
def test_quantised_checkpoints_are_refused_with_that_word(folder: Path, config: dict[str, Any]) -> None:
    change(folder / "config.json", quantization_config=config)
    with pytest.raises(InputError, match=f"is quantised .*method {config.get('quant_method', 'unknown')}.*bfloat16"):
        check_model(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (TOKENIZER[: len(TOKENIZER) // 2], "is not a sentencepiece model, or is cut off: download it again"),
        (TOKENIZER[:-1], "is not a sentencepiece model"),
        (b"", "is empty"),
        (POINTER, "is a Git LFS pointer"),
        (
            b"".join(base64.b64encode(bytes([i])) + b" %d\n" % i for i in range(256)),
            "is a tiktoken file, like LLaMA 3's",
        ),
        (b'{"version": "1.0"}', "is not a sentencepiece model"),
        # One byte changed: <unk> is no longer marked as the token for unknown text.
        (TOKENIZER.replace(b"\x18\x02", b"\x18\x01", 1), "has no token for unknown text"),
    ],
    ids=["half", "a byte short", "empty", "pointer", "tiktoken", "tokenizer.json", "a byte changed"],
)
def test_a_tokenizer_that_cannot_be_read_is_refused_in_one_line(folder: Path, content: bytes, reason: str) -> None:
    (folder / "tokenizer.model").write_bytes(content)
    with pytest.raises(InputError, match=rf"^\S*/tokenizer\.model {reason}") as refused:
        check_model(folder)
    assert "\n" not in str(refused.value)


def test_captions_that_do_not_fit_the_models_positions_are_refused_without_weights(folder: Path) -> None:
    check_model(folder, engine="native", max_new_tokens=256)
    with pytest.raises(InputError, match=r"captions of 257 tokens do not fit in the model's 512 positions"):
        check_model(folder, engine="native", max_new_tokens=257)
    check_model(folder, engine="transformers", max_new_tokens=257)


def trained(tmp_path: Path, vocab_size: int, **options: Any) -> bytes:
    """Train a sentencepiece model of ``vocab_size`` tokens. Returns its file's content."""
    text = tmp_path / "text"
    text.write_text("\n".join(f"word{n} of the image {n * 7919}" for n in range(500)))
    prefix = str(tmp_path / "trained")
    SentencePieceTrainer.train(
        input=str(text), model_prefix=prefix, vocab_size=vocab_size, model_type="bpe", minloglevel=2, **options
    )
    return Path(f"{prefix}.model").read_bytes()


def test_a_tokenizer_with_more_tokens_than_the_model_has_embeddings_is_refused(folder: Path) -> None:
    change(folder / "config.json", vocab_size=8191)
    with pytest.raises(InputError, match=r"tokenizer\.model has 8192 tokens, but the model has embeddings for 8191"):
        check_model(folder)
    change(folder / "config.json", vocab_size=8193)  # an added [PAD]
    check_model(folder)


def test_tokenizers_that_cannot_make_prompts_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.model").write_bytes(trained(tmp_path, 60, bos_id=-1))
    with pytest.raises(InputError, match=r"has no token that begins a text \(BOS\)"):
        check_model(folder)
    (folder / "tokenizer.model").write_bytes(trained(tmp_path, 60))
    with pytest.raises(InputError, match=r"the prompt alone, .*, has \d+ tokens with .* at most 256"):
        check_model(folder)


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [9, 2, 9]}, 5, (2, 9)),
        ({"eos_token_id": 7}, [5, 6], (7,)),
        ({"do_sample": True}, [6, 5], (5, 6)),
        ({"eos_token_id": None}, None, (2,)),
        ({"eos_token_id": []}, 5, (5,)),
        (None, 5, (5,)),
        (None, None, (2,)),
    ],
)
def test_a_captions_end_is_what_generate_takes_for_it(
    folder: Path, generation: dict[str, Any] | None, config: object, expected: tuple[int, ...]
) -> None:
    change(folder / "config.json", eos_token_id=config)
    if generation is None:
        (folder / "generation_config.json").unlink()
    else:
        files(folder, generation_config__json=generation)
    assert eos_token_ids(folder) == expected
    check_model(folder)


@pytest.mark.parametrize("ids", ["2", [2, "</s>"], -1, 8192, True, {"a": 2}, [[2]]])
def test_ends_that_are_no_tokens_are_refused(folder: Path, ids: object) -> None:
    files(folder, generation_config__json={"eos_token_id": ids})
    with pytest.raises(InputError, match=r"/generation_config\.json has eos_token_id .* less than vocab_size \(8192\)"):
        check_model(folder)


def test_a_model_that_ends_with_the_token_that_begins_a_text_is_refused(folder: Path) -> None:
    files(folder, generation_config__json={"eos_token_id": 1})
    with pytest.raises(InputError, match="ends captions with token 1, which is the token that begins a text"):
        check_model(folder)


INDEX = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}


@pytest.mark.parametrize(
    ("contents", "read", "unread"),
    [
        ({"model__safetensors": b"x", "consolidated__safetensors": b"x"}, ["model.safetensors"], 1),
        ({"model__safetensors": b"x", "model__safetensors__index__json": INDEX, "model-1__safetensors": b"x"}, None, 1),
        (
            {
                "model__safetensors__index__json": INDEX,
                "model-1__safetensors": b"x",
                "model-2__safetensors": b"x",
                "model-3__safetensors": b"x",  # an older shard, not in the index
                "consolidated__00__pth": b"x",
                "adapter_model__safetensors": b"x",
                "adapter_config__json": {},
                "pytorch_model__bin": b"x",
            },
            ["model-1.safetensors", "model-2.safetensors"],
            4,
        ),
        (
            {"pytorch_model__bin": b"x", "adapter_model__bin": b"x", "optimizer__pt": b"x"},
            ["pytorch_model.bin"],
            2,
        ),
    ],
    ids=["consolidated", "both", "shards", "pickles"],
)
def test_weights_are_the_files_that_transformers_reads(
    tmp_path: Path, contents: dict[str, object], read: list[str] | None, unread: int
) -> None:
    found = weight_files(files(tmp_path, **contents))
    assert [file.name for file in found] == (read or ["model.safetensors"])
    assert len(unread_files(tmp_path, found)) == unread


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        ({}, "has no weights: expected model.safetensors .*; found no such file"),
        (
            {"model-1__safetensors": b"x", "model__gguf": b"x"},
            "has no weights.* found model-1.safetensors, model.gguf",
        ),
        ({"model__safetensors__index__json": INDEX, "model-1__safetensors": b"x"}, "not there: model-2.safetensors"),
        ({"model__safetensors__index__json": {"metadata": {}}}, "index.json has no weight_map"),
        ({"model__safetensors__index__json": {"weight_map": {"a": 1}}}, "index.json has no weight_map"),
        ({"model__safetensors__index__json": {"weight_map": {"a": "../x.bin"}}}, "not a weight file in its folder"),
        ({"model__safetensors__index__json": POINTER}, "is a Git LFS pointer"),
        ({"adapter_config__json": {}, "adapter_model__safetensors": b"x"}, "only a LoRA adapter"),
    ],
)
def test_weights_that_are_not_there_are_named(tmp_path: Path, contents: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        weight_files(files(tmp_path, **contents))


def headed(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "model.safetensors",
            WEIGHTS[:-1],
            r"it is cut short: it has [\d,]+ bytes, but according to its header [\d,]+",
        ),
        ("model.safetensors", WEIGHTS[:20], "it is cut short: it has 20 bytes, but according to its header "),
        ("model.safetensors", WEIGHTS + b"x", "it is damaged: it has "),
        ("model.safetensors", b"no weights", "it does not begin with a header of safetensors"),
        ("model.safetensors", headed(b"{"), "its header is damaged"),
        ("model.safetensors", headed(b"[]"), "its header is damaged"),
        ("model.safetensors", headed(b'{"a": {"data_offsets": [1]}}'), "its header is damaged"),
        ("model.safetensors", headed(b'{"a": {"data_offsets": [0, 1e999]}}'), "its header is damaged"),
        ("pytorch_model.bin", zipped()[:-1], "it is cut short: its last part, the list of its contents, is missing"),
    ],
    ids=["end", "header", "longer", "no header", "no JSON", "no object", "no offsets", "infinite", "zip"],
)
def test_weights_that_are_cut_short_are_refused_without_torch(
    folder: Path, name: str, content: bytes, reason: str
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} cannot be read as weights: {reason}.*\. Download it again"):
        model_folder(str(folder))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", WEIGHTS),
        ("model.safetensors", headed(b'{"__metadata__": {"format": "pt"}}')),
        ("pytorch_model.bin", zipped()),
        ("pytorch_model.bin", b"\x80\x02a pickle of before torch 1.6"),
    ],
    ids=["safetensors", "no tensors", "zip", "pickle"],
)
def test_whole_weights_are_accepted(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert model_folder(str(folder)) == folder


def test_a_dead_link_into_the_hubs_cache_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blobs" / "4d7a")
    with pytest.raises(InputError, match=r"model\.safetensors is a dead link: restore its target"):
        weight_files(tmp_path)


def test_a_name_that_the_system_refuses_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the model at .*: File name too long"):
        model_folder(str(tmp_path / ("m" * 300)))


@pytest.mark.parametrize("prefix", ["module.", "base_model.model.", "_orig_mod."])
def test_a_prefix_of_all_names_is_named(tmp_path: Path, prefix: str) -> None:
    names = ["lm_head.weight", "model.norm.weight"]
    with pytest.raises(InputError, match=f"tensors begin with '{re.escape(prefix)}': save the weights without this"):
        refuse_misfit(tmp_path, missing=names, unknown=[prefix + name for name in names])


def test_a_folder_of_an_adapter_is_called_that(tmp_path: Path) -> None:
    files(tmp_path, adapter_config__json={"peft_type": "LORA"}, adapter_model__safetensors=b"x")
    with pytest.raises(InputError, match=r"contains only a LoRA adapter, without its base model: merge both"):
        model_folder(str(tmp_path))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "tokenizer.model").write_bytes(POINTER),
        lambda folder: change(folder / "config.json", vocab_size=100),
        lambda folder: (folder / "model.safetensors").write_bytes(POINTER),
        lambda folder: (folder / "model.safetensors").write_bytes(WEIGHTS[:-1]),
    ],
    ids=["config", "tokenizer", "both", "weights", "weights cut short"],
)
def test_a_model_is_checked_before_units_are_planned(folder: Path, damage: Callable[[Path], object]) -> None:
    shutil.copy(BUNDLED_MODEL / "model.safetensors", folder)
    decide(load_settings(model=str(folder)))
    damage(folder)
    with pytest.raises(InputError):
        decide(load_settings(model=str(folder)))
