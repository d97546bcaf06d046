"""Tests the parts of the demo model's training that determine what the model learns."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

from training.decoding import greedy
from training.llama import Backbone, Shape
from training.train_demo_model import main
from training.unlikelihood import looping_places, unlikelihood_loss

SHAPE = Shape(vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)


def test_decoding_with_a_cache_chooses_the_same_tokens_as_without() -> None:
    torch.manual_seed(1)
    model, eos = Backbone(SHAPE), 2
    prompts = torch.randint(3, 50, (4, 7))
    ids, ended = prompts, torch.zeros(4, dtype=torch.bool)
    for _ in range(12):
        with torch.no_grad():
            following = (model(ids, torch.float32)[:, -1] @ model.embed_tokens.weight.T).argmax(-1)
        ended |= following == eos
        ids = torch.cat([ids, torch.where(ended, eos, following)[:, None]], 1)
    expected = [[each for each in row if each != eos] for row in ids[:, 7:].tolist()]
    assert greedy(model, prompts, 12, eos, torch.float32) == expected


@pytest.mark.parametrize(
    ("caption", "target", "places"),
    [
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], []),
        ([1, 2, 3, 4, 9, 1, 2, 3, 4, 5], [1, 2, 3, 4, 9], [5, 6, 7, 8]),
        ([7, 7, 7, 7, 7, 7], [7], [1, 2, 3, 4, 5]),
        ([1, 2, 3, 4, 9, 1, 2, 3, 4], [1, 2, 3, 4, 8, 1, 2, 3, 4], []),  # the target repeats the same phrase
        ([1, 2, 3, 9, 1, 2, 3], [1], []),  # only three tokens are repeated, too few for a phrase
    ],
)
def test_the_tokens_of_a_repeated_phrase_loop(caption: list[int], target: list[int], places: list[int]) -> None:
    assert looping_places(caption, target) == places


def test_the_unlikelihood_loss_is_small_for_an_unlikely_token_and_lowers_its_share() -> None:
    logits = torch.log(torch.tensor([[0.9, 0.1], [0.2, 0.8]])).requires_grad_()
    loss = unlikelihood_loss(logits, torch.tensor([0, 0]))
    assert loss.item() == pytest.approx(-(math.log(0.1) + math.log(0.8)) / 2)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[:, 0] > 0).all()


def test_unlikelihood_training_without_an_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train_demo_model.py", "unlikelihood", "--work", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    assert "unlikelihood needs --minutes" in capsys.readouterr().err
