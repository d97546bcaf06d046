"""Compares the estimated numbers of tokens with the numbers that the tokenizer gives."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.demo.pairs import make_pair
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS, prompt_tokens
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from capsfusion_tasks.planning.estimate import BENCHMARKS
from capsfusion_tasks.planning.tokens import DEFAULT, TokenEstimate

ROWS, UNIT = 1000, 100  # number of rows in total, and in each unit
MOST = 1.3  # a unit's estimate may be wrong by less than this factor

Rows = list[tuple[str, str, str]]


@pytest.fixture(scope="module")
def demo_tokenizer() -> LlamaTokenizer:
    return LlamaTokenizer(BUNDLED_MODEL / "tokenizer.model")


def table(rows: Rows) -> pa.Table:
    return pa.table({"laion_2b": [row[0] for row in rows], "laion_coco": [row[1] for row in rows]})


def real_tokens(rows: Rows, tokenizer: LlamaTokenizer) -> np.ndarray:
    """Each row's number of tokens, [rows], in its prompt and its caption with EOS."""
    return np.array([len(prompt_tokens(tokenizer, *row[:2])) + len(tokenizer.encode(row[2])) for row in rows])


def off_by(estimate: TokenEstimate, rows: Rows, real: np.ndarray) -> np.ndarray:
    """Estimated tokens divided by real tokens, for each unit of ``UNIT`` rows."""
    units: np.ndarray = estimate.of(table(rows)).reshape(-1, UNIT).sum(1) / real.reshape(-1, UNIT).sum(1)
    return units


def test_published_pairs_are_estimated_well(
    published_pairs: list[dict[str, Any]], llama_tokenizer: LlamaTokenizer, demo_tokenizer: LlamaTokenizer
) -> None:
    rows = [(row["laion_2b"], row["laion_coco"], row["capsfusion_official"]) for row in published_pairs[:ROWS]]
    for model, tokenizer in {"BAAI/CapsFus-LLaMA": llama_tokenizer, "demo/model": demo_tokenizer}.items():
        real = real_tokens(rows, tokenizer)
        estimates = [DEFAULT.with_tokenizer(tokenizer, table(rows))]
        if tokenizer is llama_tokenizer:
            assert estimates[0].template_tokens == DEFAULT.template_tokens
            estimates.append(DEFAULT)
        for estimate in estimates:
            units = off_by(estimate, rows, real)
            assert 1 / MOST < units.min() <= units.max() < MOST
            assert units.mean() == pytest.approx(1, abs=0.1)
        for tokens in {benchmark.tokens_per_row for key, benchmark in BENCHMARKS.items() if key[0] == model}:
            assert tokens == pytest.approx(real.mean(), rel=0.03)


def test_the_demos_pairs_are_estimated_well(demo_tokenizer: LlamaTokenizer) -> None:
    made = [make_pair(random.Random(seed), "sample") for seed in range(2 * UNIT)]
    rows = [(pair.raw, pair.synthetic, pair.fused) for pair in made]
    estimate = DEFAULT.with_tokenizer(demo_tokenizer, table(rows))
    units = off_by(estimate, rows, real_tokens(rows, demo_tokenizer))
    assert 1 / MOST < units.min() <= units.max() < MOST
    assert units.mean() == pytest.approx(1, abs=0.15)  # the demo's captions are shorter than published ones


def test_texts_of_other_scripts_are_tokenized(demo_tokenizer: LlamaTokenizer) -> None:
    raw, coco = "猫が窓辺で眠っている写真", "窓のそばの猫"
    rows = [(f"{raw} {n}", coco, f"{raw}、{coco} {n}") for n in range(UNIT)]
    real = real_tokens(rows, demo_tokenizer)
    estimate = TokenEstimate(template_tokens=6, max_new_tokens=200)
    assert off_by(estimate, rows, real)[0] < 0.5
    assert off_by(estimate.with_tokenizer(demo_tokenizer, table(rows)), rows, real)[0] == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("template_tokens", [6, 126, MAX_PROMPT_TOKENS])
def test_no_row_has_more_tokens_than_the_model_reads_and_writes(template_tokens: int) -> None:
    estimate = TokenEstimate(template_tokens=template_tokens, max_new_tokens=60)
    longest, shortest = estimate.of(table([("long alt text " * 150_000, "an owl", ""), ("", "", "")])).tolist()
    assert longest <= MAX_PROMPT_TOKENS + 60
    assert template_tokens < shortest <= longest


def test_fused_units_give_the_length_of_captions() -> None:
    rows = [("a" * 100, "b" * 82, "")] * 10  # a pair of 182 characters has 50 tokens
    estimate = TokenEstimate().with_measured(rows=10, prompt_tokens=1760, caption_tokens=600)
    assert estimate.of(table(rows)).tolist() == [126 + 50 + 60] * 10
    assert DEFAULT.with_measured(10, prompt_tokens=1260, caption_tokens=0) == DEFAULT
