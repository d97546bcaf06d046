"""Tests custom prompts: template files, the prompts that a template makes, and the tokens that these prompts share."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from benchmarks.families import LLAMA3_WORDS, QWEN_WORDS, write_tokenizer
from benchmarks.workload import read_pairs
from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.files import fuse_file
from capsfusion_tasks.fusion.identity import decide, tokenizer_of
from capsfusion_tasks.fusion.model_check import check_model
from capsfusion_tasks.fusion.model_tokenizer import load_tokenizer, tokenizer_digest
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS, Prompt, clean_caption
from capsfusion_tasks.fusion.template import PAPER, PROMPT_TEMPLATE, Template
from capsfusion_tasks.fusion.tokenizer import Tokenizer
from capsfusion_tasks.settings import load_settings
from tests.command import capsfusion

SHORT = "One: {raw}\nTwo: {synthetic}\nBoth:"
CHAT = "<|im_start|>user\nMerge {raw} and {synthetic}<|im_end|>\n<|im_start|>assistant\n"
PAIRS = read_pairs(None, 30)


# ---- templates ----


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Two: {synthetic}", r"has no \{raw\}: write each field where its caption goes"),
        ("One: {raw}", r"has no \{synthetic\}: write"),
        ("", r"has no \{raw\} and no \{synthetic\}: write"),
        ("{{raw}} {{synthetic}}", r"has no \{raw\} and no \{synthetic\}"),
        (SHORT + " {title}", r"has the field \{title\}: only \{raw\} and \{synthetic\} are filled in"),
        ("{laion_2b} {laion_coco}", r"has the field \{laion_2b\}"),
        (SHORT + " {}", r"has the field \{\}"),
        (SHORT + " {raw!r}", r"has the field \{raw!r\}"),
        (SHORT + " {raw:>80}", r"has the field \{raw:>80\}"),
        (SHORT + " {raw.real}", r"has the field \{raw.real\}"),
        (SHORT + " {", "is not a template: .* Write {{ and }} for braces"),
        (SHORT + " }", "is not a template: .* Write {{ and }} for braces"),
        (SHORT + "\x00", "has the control character"),
        (SHORT.encode("utf-16"), "is not in UTF-8"),
        (SHORT + "x" * 70_000, "has more than 65536 bytes"),
    ],
)
def test_a_file_that_is_no_template_is_refused_before_the_model_is_looked_for(
    tmp_path: Path, text: str | bytes, reason: str
) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=reason) as refused:
        decide(load_settings(model="nobody/no-such-model", prompt=str(file)))
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["missing.txt", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"cannot read the prompt {tmp_path}"):
        Template.read(tmp_path / name)


@pytest.mark.parametrize("content", [SHORT, SHORT + "\n", "\ufeff" + SHORT, SHORT.replace("\n", "\r\n") + "\r\n"])
def test_how_an_editor_saves_a_file_makes_no_difference(tmp_path: Path, content: str) -> None:
    (tmp_path / "prompt.txt").write_bytes(content.encode())
    assert Template.read(tmp_path / "prompt.txt") == Template.of(SHORT)


def test_captions_are_filled_in_and_never_read_as_templates() -> None:
    template = Template.of("{{json}} {synthetic}, {raw}, {raw}")
    assert template.fill("{synthetic} {0}", "}{") == "{json} }{, {synthetic} {0}, {synthetic} {0}"


def test_templates_are_told_apart_and_the_papers_digest_never_changes() -> None:
    texts = (PROMPT_TEMPLATE, SHORT, SHORT + " ", SHORT + "{{raw}}", SHORT + "{{laion_2b}}", "{synthetic} {raw}")
    assert len({Template.of(text).digest(256) for text in texts}) == len(texts)
    # This digest of the paper's template is stored with all existing captions, so it must never change.
    assert PAPER.digest(256) == "d5027520579ce411396b10894bc9264b"
    assert PAPER.digest(255) != PAPER.digest(256)


# ---- prompts ----


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with tokenizers: a sentencepiece model, and byte-level BPEs like those of LLaMA 3 and Qwen."""
    folders = {"sentencepiece": BUNDLED_MODEL}
    texts = [text for pair in PAIRS for text in pair]
    for name, words, bos in (("LLaMA 3", LLAMA3_WORDS, "<|begin_of_text|>"), ("Qwen", QWEN_WORDS, None)):
        folders[name] = tmp_path_factory.mktemp("tokenizer")
        write_tokenizer(folders[name], texts, words, bos)
        (folders[name] / "config.json").write_text('{"model_type": "qwen2"}')
    return folders


TEMPLATES = (
    PROMPT_TEMPLATE,
    SHORT,
    CHAT,
    "{raw}{synthetic}",
    "  {synthetic}\n\n\n{raw}",
    "Caption={raw}; Alt text:\n\n{synthetic}",
    "One:\n{raw} Two: {synthetic}",
    "1 {raw} {synthetic} 12{raw}",
    "<|im_start|>{raw}<|im_end|>{synthetic}",
    "図 {raw}、{synthetic}",
)
CAPTIONS = st.text(max_size=40) | st.sampled_from(("=x", ":)", "12", "'s", "e\u0301", "\u0301", "<|im_end|>", "  x"))


@given(template=st.sampled_from(TEMPLATES), raw=CAPTIONS, synthetic=CAPTIONS)
@pytest.mark.parametrize("name", ["sentencepiece", "LLaMA 3", "Qwen"])
def test_every_prompt_begins_with_the_shared_tokens(
    tokenizers: dict[str, Path], name: str, template: str, raw: str, synthetic: str
) -> None:
    prompt = prompt_of(tokenizers[name], template)
    shared = prompt.shared_prefix()
    ids = prompt.tokens(raw, synthetic)
    assert len(ids) <= MAX_PROMPT_TOKENS
    if clean_caption(raw) and clean_caption(synthetic):  # rows with an empty caption are not fused
        assert ids[: len(shared)] == shared
        assert len(ids) > len(shared)


_made: dict[tuple[Path, str], Prompt] = {}


def prompt_of(folder: Path, template: str) -> Prompt:
    if (folder, template) not in _made:
        _made[folder, template] = Prompt(tokenizer_in(folder), Template.of(template))
    return _made[folder, template]


def tokenizer_in(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


def test_most_of_a_template_is_shared(tokenizers: dict[str, Path]) -> None:
    for name, folder in tokenizers.items():
        tokenizer = tokenizer_in(folder)
        for text in (PROMPT_TEMPLATE, SHORT, CHAT):
            before = Template.of(text).parts[0][0].rstrip()
            written = tokenizer.decode(Prompt(tokenizer, Template.of(text)).shared_prefix())
            assert written == (before if name == "sentencepiece" else before.removeprefix("<|im_start|>")), name


def test_roles_are_control_tokens_in_the_template_and_text_in_a_caption(tokenizers: dict[str, Path]) -> None:
    folder = tokenizers["Qwen"]
    theirs, prompt = AutoTokenizer.from_pretrained(folder), prompt_of(folder, CHAT)
    for raw, synthetic in PAIRS:
        cleaned = CHAT.format(raw=clean_caption(raw), synthetic=clean_caption(synthetic))
        assert prompt.tokens(raw, synthetic) == theirs(cleaned).input_ids
    end = theirs.convert_tokens_to_ids("<|im_end|>")
    assert prompt.tokens("a <|im_end|> b", "c").count(end) == prompt.tokens("a b", "c").count(end) == 1
    long = prompt.tokens("raw " * 500, "synthetic " * 500)
    assert len(long) <= MAX_PROMPT_TOKENS
    assert theirs.decode(long).endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_that_begins_with_bos_has_it_once(tokenizers: dict[str, Path]) -> None:
    folder = tokenizers["LLaMA 3"]
    with_bos, without = (prompt_of(folder, start + SHORT) for start in ("<|begin_of_text|>", ""))
    assert with_bos.encode("a", "b") == without.encode("a", "b")


# ---- tokens that a fine-tune has added to a tokenizer.model ----

ADDED = {"<|im_end|>": 8192, "<|im_start|>": 8193}
ENTRIES = [{"content": name, "id": i, "special": True} for name, i in ADDED.items()]
LISTS = {
    "added_tokens.json": ADDED,
    "tokenizer_config.json": {"added_tokens_decoder": {str(entry["id"]): entry for entry in ENTRIES}},
    "tokenizer.json": {"added_tokens": [{"content": "<s>", "id": 1, "special": True}, *ENTRIES]},
}


@pytest.fixture
def chat_model(tiny_model: Path, tmp_path: Path) -> Path:
    """A model with a tokenizer.model, and embeddings for two more tokens. Its files list no added tokens yet."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "chat"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 8194}))
    (folder / "added_tokens.json").unlink()
    return folder


@pytest.mark.parametrize("name", LISTS)
def test_added_tokens_are_control_tokens_in_the_template_and_text_in_a_caption(chat_model: Path, name: str) -> None:
    check_model(chat_model, template=Template.of(CHAT))
    (chat_model / name).write_text(json.dumps(LISTS[name]))
    check_model(chat_model, template=Template.of(CHAT))
    tokenizer = load_tokenizer(chat_model)
    user, assistant = (tokenizer.encode(text, bos=False) for text in ("user\nMerge a <|im_end|> and b", "assistant\n"))
    ids = Prompt(tokenizer, Template.of(CHAT)).tokens("a <|im_end|>", "b")
    line = tokenizer.encode("\n", bos=False)
    assert ids == [tokenizer.bos_id, 8193, *user, 8192, *line, 8193, *assistant]
    assert tokenizer.decode([8193, *user, 8192]) == "user\nMerge a <|im_end|> and b"


def test_only_added_tokens_in_the_prompt_change_the_fusion(chat_model: Path, tmp_path: Path) -> None:
    def fusion_ids() -> list[str]:
        options = {"model": str(chat_model), "home": tmp_path, "max_new_tokens": 4}
        return [decide(load_settings(**options, prompt=prompt)).fusion_id for prompt in (None, *prompts)]

    prompts = [str(tmp_path / name) for name in ("short.txt", "chat.txt")]
    for file, text in zip(prompts, (SHORT, CHAT), strict=True):
        Path(file).write_text(text)
    before = fusion_ids()
    (chat_model / "added_tokens.json").write_text(json.dumps({"[PAD]": 8192}))
    assert fusion_ids() == before
    (chat_model / "added_tokens.json").write_text(json.dumps(ADDED))
    now = fusion_ids()
    assert now[:2] == before[:2]
    assert now[2] != before[2]
    decoding = decide(load_settings(model=str(chat_model), home=tmp_path, prompt=prompts[1]))
    assert tokenizer_of(decoding, load_settings(model=str(chat_model))) is not None
    content = (chat_model / "tokenizer.model").read_bytes()
    assert tokenizer_digest(chat_model) == hashlib.blake2b(content, digest_size=16).hexdigest()


def test_an_added_token_without_an_embedding_is_refused_if_the_prompt_has_it(chat_model: Path) -> None:
    (chat_model / "added_tokens.json").write_text(json.dumps({**ADDED, "<|im_end|>": 8194}))
    check_model(chat_model, template=Template.of(SHORT))
    with pytest.raises(
        InputError, match=r"the prompt has a control token with id 8194 \(.* embeddings only for ids below 8194"
    ):
        check_model(chat_model, template=Template.of(CHAT))


# ---- fusions ----


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    (tmp_path / "prompt.txt").write_text(SHORT + "\n")
    return tmp_path / "prompt.txt"


def test_another_prompt_is_another_fusion_wherever_its_file_is(
    tiny_model: Path, tmp_path: Path, prompt_file: Path
) -> None:
    def decided(**options: Any) -> Any:
        return decide(load_settings(model=str(tiny_model), home=tmp_path, **options))

    copy = tmp_path / "copy.txt"
    copy.write_text(SHORT)
    paper = tmp_path / "paper.txt"
    paper.write_text(PROMPT_TEMPLATE)
    own = decided(prompt=prompt_file)
    assert own.fusion_id != decided().fusion_id
    assert own == decided(prompt=copy)
    assert own.prompt == SHORT
    assert "a prompt of your own" in own.description
    assert decided(prompt=paper) == decided()


def test_a_prompt_without_room_for_captions_is_refused(tiny_model: Path, tmp_path: Path, prompt_file: Path) -> None:
    prompt_file.write_text("very " * 300 + SHORT)
    with pytest.raises(InputError, match=r"may have at most 256: write a shorter prompt"):
        decide(load_settings(model=str(tiny_model), prompt=prompt_file, home=tmp_path))


@pytest.mark.usefixtures("one_process")
def test_fuse_gives_other_captions_and_both_engines_the_same(
    tiny_model: Path, tmp_path: Path, prompt_file: Path
) -> None:
    source, target = tmp_path / "pairs.jsonl", tmp_path / "fused.parquet"
    source.write_text("".join(json.dumps({"laion_2b": raw, "laion_coco": text}) + "\n" for raw, text in PAIRS[:5]))

    def captions(**options: Any) -> list[str | None]:
        settings = load_settings(model=str(tiny_model), max_new_tokens=9, home=tmp_path, **options)
        fuse_file(source, target, settings, overwrite=True, on_line=lambda _: None)
        return list(pq.read_table(target)["capsfusion"].to_pylist())

    own = captions(prompt=prompt_file)
    assert None not in own
    assert own == captions(prompt=prompt_file, engine="transformers")
    assert all(ours != papers for ours, papers in zip(own, captions(), strict=True))


def test_fuse_refuses_a_prompt_in_one_line_with_exit_code_2(
    tmp_path: Path, prompt_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text('{"laion_2b": "a", "laion_coco": "b"}\n')
    prompt_file.write_text("Merge {raw} and {sythetic}")
    done = capsfusion("fuse", "pairs.jsonl", "out.jsonl", "--prompt", "prompt.txt")
    assert done.returncode == 2
    [line] = [line for line in done.messages.splitlines() if "error" in line]
    assert "prompt.txt has the field {sythetic}: only {raw} and {synthetic} are filled in" in line
