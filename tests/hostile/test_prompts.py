"""Captions that look like instructions, control tokens or the template become plain text in the prompt."""

from __future__ import annotations

import pytest

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS, build_prompt, prompt_tokens
from capsfusion_tasks.fusion.template import PROMPT_TEMPLATE
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from tests.hostile.captions import CONTROL_TOKENS, HOSTILE

LINES = PROMPT_TEMPLATE.count("\n")


@pytest.fixture(params=["demo", "LLaMA"])
def tokenizer(request: pytest.FixtureRequest) -> LlamaTokenizer:
    if request.param == "LLaMA":
        found: LlamaTokenizer = request.getfixturevalue("llama_tokenizer")
        return found
    return LlamaTokenizer(BUNDLED_MODEL / "tokenizer.model")


@pytest.mark.parametrize("text", CONTROL_TOKENS)
def test_a_control_token_that_is_written_out_is_tokenized_as_text(tokenizer: LlamaTokenizer, text: str) -> None:
    ids = prompt_tokens(tokenizer, f"a hat {text} on sale", f"{text}A hat.{text}")
    assert ids[0] == tokenizer.bos_id
    assert not {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id} & set(ids[1:])
    assert tokenizer.decode(ids).count(text) == 3


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:30].encode("unicode_escape").decode())
def test_a_hostile_caption_stays_on_its_line_of_the_template(tokenizer: LlamaTokenizer, text: str) -> None:
    for raw, synthetic in ((text, "A hat."), ("a hat", text), (text, text)):
        ids = prompt_tokens(tokenizer, raw, synthetic)
        prompt = tokenizer.decode(ids)
        assert len(ids) <= MAX_PROMPT_TOKENS
        assert prompt.count("\n") == LINES
        assert [line.split(":")[0] for line in prompt.split("\n")[2:]] == ["Sentence 1", "Sentence 2", "New Sentence"]
        assert prompt.endswith("\nNew Sentence:")
        assert not any(character < " " for character in prompt.replace("\n", ""))


@pytest.mark.parametrize("text", ["word ", "a", "é中", "\N{GRINNING FACE}", ". ", "<s>"])
def test_of_a_very_long_caption_the_same_beginning_is_kept_as_of_all_of_it(
    tokenizer: LlamaTokenizer, text: str
) -> None:
    """Only the beginning of a very long caption is tokenized. The result is the same as for the whole caption."""
    whole = text * (40_000 // len(text))
    kept = tokenizer.decode(prompt_tokens(tokenizer, whole, "A hat.")).split("Sentence 1: ")[1].split("\n")[0]
    ids = tokenizer.encode(build_prompt(whole, "A hat."))
    removed = len(ids) - MAX_PROMPT_TOKENS
    body = tokenizer.encode(whole.strip(), bos=False)
    expected = tokenizer.decode(body[: len(body) - removed]).rstrip("\N{REPLACEMENT CHARACTER}").rstrip()
    assert kept == expected


@pytest.mark.timeout(20)
def test_ten_megabytes_of_caption_are_no_work(tokenizer: LlamaTokenizer) -> None:
    ids = prompt_tokens(tokenizer, "ab " * 3_500_000, "A hat. " * 1_500_000)
    assert tokenizer.decode(ids).endswith("\nNew Sentence:")
