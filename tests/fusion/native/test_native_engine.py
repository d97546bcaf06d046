"""Compares captions of the native engine with captions that transformers generates."""

from __future__ import annotations

import json
import random
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.engine import NOT_FINITE, Completion, Engine, Request, StaticRequests, complete_all
from capsfusion_tasks.fusion.model_files import eos_token_ids
from capsfusion_tasks.fusion.native import memory, torch_ops, triton_ops
from capsfusion_tasks.fusion.native.attention import Beams
from capsfusion_tasks.fusion.native.cache import KVCache
from capsfusion_tasks.fusion.native.checkpoint import load_llama
from capsfusion_tasks.fusion.native.engine import NativeEngine
from capsfusion_tasks.fusion.native.memory import Room
from capsfusion_tasks.fusion.native.model import Llama
from capsfusion_tasks.fusion.native.slots import Prefix, Slots
from capsfusion_tasks.fusion.prompt import prompt_tokens, shared_prefix
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from capsfusion_tasks.fusion.transformers_engine import TransformersEngine, load_model
from tests.fusion.native.conftest import Checkpoint, write_llama

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PREFIX = [1, 300, 17, 5]
EOS = 77
NEVER = 321  # no token's id
LIMIT = 12


def random_requests(rows: int, seed: int = 0) -> list[Request]:
    rng = random.Random(seed)
    return [Request(row, PREFIX + [rng.randrange(3, 321) for _ in range(rng.randint(1, 30))]) for row in range(rows)]


REQUESTS = random_requests(40)
FEW = REQUESTS[:12]  # few, because transformers' generate is slow and takes one request at a time


def native(
    model: Llama, *, num_beams: int = 3, slots: int = 8, eos_ids: Sequence[int] = (EOS,), limit: int = LIMIT
) -> NativeEngine:
    return NativeEngine(
        model,
        num_beams=num_beams,
        max_new_tokens=limit,
        max_prompt_tokens=40,
        eos_ids=eos_ids,
        prefix=PREFIX,
        batch_size=slots,
    )


def by_row(completions: Iterator[Completion]) -> dict[int, tuple[list[int], str, int]]:
    rows = list(completions)
    assert len({c.row for c in rows}) == len(rows)
    return {c.row: (c.token_ids, c.finish_reason, c.caption_tokens) for c in rows}


@pytest.fixture
def model_folder(checkpoint: Checkpoint) -> Path:
    return checkpoint(num_key_value_heads=2)


@pytest.fixture
def model(model_folder: Path) -> Llama:
    return load_llama(model_folder, CPU, torch.float32)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Counter[int]:
    """For each token, in how many captions of ``model`` it is."""
    model = load_llama(write_llama(tmp_path_factory.mktemp("said"), num_key_value_heads=2), CPU, torch.float32)
    captions = native(model, eos_ids=[NEVER]).generate(StaticRequests(REQUESTS))
    return Counter(token for caption in captions for token in set(caption.token_ids))


@pytest.fixture(scope="module")
def eos(said: Counter[int]) -> int:
    """A token that serves as EOS. It is in about half of the captions, so that rows end at different times.

    Random weights never produce the real EOS.
    """
    return min(said, key=lambda token: (abs(said[token] - len(REQUESTS) / 2), token))


@pytest.mark.parametrize("num_beams", [1, 2, 3, 5])
def test_captions_are_transformers_token_for_token(model_folder: Path, model: Llama, eos: int, num_beams: int) -> None:
    reference = TransformersEngine(
        load_model(model_folder, CPU, torch.float32),
        num_beams=num_beams,
        max_new_tokens=LIMIT,
        eos_ids=[eos],
        pad_id=0,
        batch_size=16,
    )
    expected = by_row(reference.generate(StaticRequests(REQUESTS)))
    assert {reason for _, reason, _ in expected.values()} == {"stop", "length"}
    assert len({tokens for _, _, tokens in expected.values()}) > 3
    for slots, requests in ((1, FEW), (7, REQUESTS), (64, REQUESTS)):  # one slot takes as many steps as captions have
        engine = native(model, num_beams=num_beams, slots=slots, eos_ids=[eos])
        got = by_row(engine.generate(StaticRequests(requests)))
        assert got == {request.row: expected[request.row] for request in requests}
    shuffled = random.Random(1).sample(REQUESTS, len(REQUESTS))
    assert by_row(native(model, num_beams=num_beams, eos_ids=[eos]).generate(StaticRequests(shuffled))) == expected


@pytest.mark.slow
@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_demo_models_captions_are_transformers(num_beams: int) -> None:
    from capsfusion_tasks.demo.pairs import make_pair

    tokenizer = LlamaTokenizer(BUNDLED_MODEL / "tokenizer.model")
    pairs = [make_pair(random.Random(row), "heldout") for row in range(6)]
    requests = [Request(row, prompt_tokens(tokenizer, pair.raw, pair.synthetic)) for row, pair in enumerate(pairs)]
    settings = {"num_beams": num_beams, "max_new_tokens": 80, "eos_ids": [tokenizer.eos_id]}
    reference = TransformersEngine(
        load_model(BUNDLED_MODEL, CPU, torch.float32), pad_id=tokenizer.pad_id, batch_size=6, **settings
    )
    engine = NativeEngine(
        load_llama(BUNDLED_MODEL, CPU, torch.float32),
        max_prompt_tokens=256,
        prefix=shared_prefix(tokenizer),
        batch_size=4,
        **settings,
    )
    assert by_row(engine.generate(StaticRequests(requests))) == by_row(reference.generate(StaticRequests(requests)))


def test_the_score_is_the_captions_mean_log_probability(model_folder: Path, model: Llama, eos: int) -> None:
    reference = load_model(model_folder, CPU, torch.float32)
    for num_beams in (1, 3):
        for completion in native(model, num_beams=num_beams, eos_ids=[eos]).generate(StaticRequests(REQUESTS[:6])):
            ids = completion.token_ids + ([eos] if completion.finish_reason == "stop" else [])
            prompt = REQUESTS[completion.row].prompt
            with torch.inference_mode():
                logits = reference(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
            expected = logits.log_softmax(-1)[torch.arange(len(ids)), ids].mean()
            assert completion.score == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_row_with_a_limit_of_its_own_ends_there(model_folder: Path, model: Llama, num_beams: int) -> None:
    limited = [Request(request.row, request.prompt, 1 + request.row % 15) for request in REQUESTS]
    got = by_row(native(model, num_beams=num_beams, eos_ids=[NEVER]).generate(StaticRequests(limited)))
    assert {row: count for row, (_, _, count) in got.items()} == {row: min(LIMIT, 1 + row % 15) for row in range(40)}
    reference = TransformersEngine(
        load_model(model_folder, CPU, torch.float32),
        num_beams=num_beams,
        max_new_tokens=LIMIT,
        eos_ids=[NEVER],
        pad_id=0,
        batch_size=8,
    )
    assert got == by_row(reference.generate(StaticRequests(limited)))


def test_a_slot_is_refilled_at_once_and_only_a_few_rows_are_read_ahead(model: Llama) -> None:
    requests = StaticRequests(Request(r.row, r.prompt, 2 + r.row % 9) for r in random_requests(200))
    engine = native(model, slots=16, eos_ids=[NEVER])
    completions = engine.generate(requests)
    next(completions)
    left = requests.take(200)
    assert len(left) >= 200 - 16 - 8
    assert len(list(completions)) == 199 - len(left)
    engine.occupancy.busy = engine.occupancy.slots = 0
    assert len(list(engine.generate(StaticRequests(left)))) == len(left)
    # With static batches, slots would be busy in little more than half of the steps, because rows have 2 to 10 tokens.
    assert engine.occupancy.busy / engine.occupancy.slots > 0.85


def test_rows_that_come_late_join_those_that_are_on_their_way(model: Llama, eos: int) -> None:
    class Slow(StaticRequests):
        """Requests that arrive slowly. A call without ``wait`` gets a row only every third time."""

        asked = 0

        def take(self, most: int, *, wait: bool = True) -> list[Request]:
            self.asked += 1
            return super().take(min(most, 1), wait=wait) if wait or self.asked % 3 == 0 else []

    engine = native(model, eos_ids=[eos])
    expected = by_row(native(model, eos_ids=[eos]).generate(StaticRequests(REQUESTS)))
    assert by_row(engine.generate(Slow(REQUESTS))) == expected
    assert engine.occupancy.busy / engine.occupancy.slots > 0.3


@pytest.mark.parametrize(("num_beams", "most"), [(1, 1), (3, 1), (3, 2), (1, 12), (3, 12)])
def test_slots_that_are_not_busy_do_no_harm(model: Llama, num_beams: int, most: int) -> None:
    """A CUDA graph computes all slots in every step, even idle ones. This must not change captions of busy slots."""

    def slots() -> Slots:
        return Slots(
            model,
            Prefix.compute(model, PREFIX),
            slots=4,
            beams=num_beams,
            prompt_tokens=30,
            max_new_tokens=most,
            eos_ids=[NEVER],
        )

    prompt = REQUESTS[0].prompt[len(PREFIX) :]
    with torch.inference_mode():
        idle, alone = slots(), slots()
        # More idle steps than the model has positions.
        for _ in range(140):
            idle.step(4)
        slot, same_slot = (some.prefill([prompt], [most])[0] for some in (idle, alone))
        for _ in range(most - 1):
            idle.grow()
            idle.step(4)
            alone.decode()
        expected, got = alone.finished()[same_slot], idle.finished()[slot]
    assert got.token_ids == expected.token_ids
    assert got.score == pytest.approx(expected.score, abs=1e-5)
    assert len(expected.token_ids) == most


def test_attention_reads_one_token_of_an_idle_slot(model: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot stays idle for many steps of a CUDA graph. Attention must not read more and more tokens for it."""
    used = list[list[int]]()
    attention = torch_ops.beam_attention

    def record(queries: torch.Tensor, cache: KVCache, layer: int, beams: Beams) -> torch.Tensor:
        if layer == 0:
            used.append(beams.used.tolist())
        return attention(queries, cache, layer, beams)

    monkeypatch.setattr(torch_ops, "beam_attention", record)
    sizes = {"beams": 3, "prompt_tokens": 30, "max_new_tokens": 9, "eos_ids": [NEVER]}
    with torch.inference_mode():
        slots = Slots(model, Prefix.compute(model, PREFIX), slots=3, **sizes)
        slots.prefill([[5] * 20, [6] * 10], [9, 3])
        for _ in range(4):
            slots.grow()
            slots._upload()
            slots.step(3)  # all slots, as a CUDA graph does
            slots.finished()
    assert used == [[23, 13, 1], [26, 16, 1], [29, 1, 1], [32, 1, 1]]


def test_an_engine_goes_on_after_fewer_slots_and_after_an_error(model: Llama, eos: int) -> None:
    expected = by_row(native(model, eos_ids=[eos]).generate(StaticRequests(REQUESTS)))
    engine = native(model, eos_ids=[eos])
    poison = [*REQUESTS[:20], Request(99, [3, 4, 5]), *REQUESTS[20:]]
    with pytest.raises(ValueError, match="the row's prompt"):
        list(engine.generate(StaticRequests(poison)))
    assert engine.shrink()
    got = by_row(complete_all(engine, StaticRequests(poison)))
    assert got.pop(99)[1].startswith("error: ValueError: the row's prompt (3 tokens) must begin with the 4 tokens")
    assert got == expected
    assert engine.batch_size == 4


@pytest.mark.parametrize("num_beams", [1, 3])
def test_rows_that_find_no_page_begin_anew_and_their_captions_are_the_same(
    model: Llama, eos: int, num_beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = by_row(native(model, num_beams=num_beams, eos_ids=[eos]).generate(StaticRequests(REQUESTS)))
    monkeypatch.setattr(torch_ops, "PAGE_TOKENS", 4)
    engine = native(model, num_beams=num_beams, eos_ids=[eos])
    longest = -(-(36 + 11 * num_beams) // 4)  # pages
    evicted = []
    decode = Slots.decode
    monkeypatch.setattr(Slots, "decode", lambda slots: evicted.extend(found := decode(slots)) or found)
    engine._room = Room(8, longest + 8)
    assert by_row(engine.generate(StaticRequests(REQUESTS))) == expected
    assert evicted
    assert engine._slots is not None
    assert engine._slots._pages.free == longest + 8


@pytest.mark.slow
def test_with_triton_kernels_captions_are_the_same(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = REQUESTS[:5]
    # Short prompts with little padding, in small pages: Triton's interpreter takes 5 ms for each token of a prefill.
    if DEVICE.type == "cpu":
        monkeypatch.setattr(triton_ops, "PREFILL_MULTIPLE", 4)
        monkeypatch.setattr(triton_ops, "PAGE_TOKENS", 16)
        requests = [Request(request.row, request.prompt[: 12 + request.row]) for request in requests]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = load_llama(checkpoint(**sizes, num_key_value_heads=1), DEVICE, torch.float32)
    for num_beams in (1, 3):
        captions = []
        for ops in (torch_ops, triton_ops):
            model.ops = ops
            engine = native(model, num_beams=num_beams, slots=3, limit=5, eos_ids=[NEVER])
            captions.append(by_row(engine.generate(StaticRequests(requests))))
        assert captions[0] == captions[1]


class Scarce:
    """A LLaMA that raises an out-of-memory error if logits of more than ``rows`` rows are computed at once."""

    def __init__(self, model: Llama, rows: int) -> None:
        self._model, self._rows = model, rows

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        if len(hidden) > 3 * self._rows:
            raise torch.OutOfMemoryError("no room")
        return self._model.logits(hidden)


def test_out_of_memory_halves_the_slots_and_loses_no_row(model: Llama, eos: int) -> None:
    engine = native(Scarce(model, 5), slots=16, eos_ids=[eos])  # type: ignore[arg-type]
    assert by_row(complete_all(engine, StaticRequests(REQUESTS))) == by_row(
        native(model, eos_ids=[eos]).generate(StaticRequests(REQUESTS))
    )
    assert engine.batch_size == 4


@pytest.mark.parametrize(("fit", "slots"), [(16, 16), (5, 4), (1, 1), (0, None)])
def test_an_engine_whose_slots_do_not_fit_starts_with_fewer(
    model: Llama, monkeypatch: pytest.MonkeyPatch, fit: int, slots: int | None
) -> None:
    def measure(_: NativeEngine, slots: int) -> Room:
        if slots > fit:
            raise torch.OutOfMemoryError("no room")
        return Room(slots, slots)

    monkeypatch.setattr(NativeEngine, "_measure", measure)
    if slots is None:
        with pytest.raises(torch.OutOfMemoryError):
            native(model, slots=16)
    else:
        assert native(model, slots=16).batch_size == slots


def test_measuring_memory_takes_the_pages_of_one_row(model: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small card, the pages of as many of the longest prompts as a prefill may have would not fit."""
    ran = list[tuple[str, int, int]]()  # what ran, for how many rows, in how many pages
    prefill, step = Slots.prefill, Slots.step

    def record_prefill(slots: Slots, prompts: list[list[int]], limits: list[int]) -> list[int]:
        ran.append(("prefill", len(prompts), slots._cache.keys.shape[1]))
        return prefill(slots, prompts, limits)

    def record_step(slots: Slots, n: int) -> None:
        ran.append(("step", n, slots._cache.keys.shape[1]))
        step(slots, n)

    monkeypatch.setattr(Slots, "prefill", record_prefill)
    monkeypatch.setattr(Slots, "step", record_step)
    monkeypatch.setattr(torch_ops, "PAGE_TOKENS", 8)
    for name in ("memory_allocated", "reset_peak_memory_stats", "max_memory_allocated", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**10, 10**10))
    sizes = {"beams": 3, "prompt_tokens": 30, "max_new_tokens": 9, "eos_ids": [NEVER], "keep_beams": False}
    with torch.inference_mode():
        prefix = Prefix.compute(model, PREFIX)
        assert memory.measure(model, prefix, prefill_tokens=240, most_slots=20, **sizes) == Room(20, 20 * 7)
    assert ran == [("prefill", 8, 7 + 1), ("step", 20, 7 + 1)]  # 30 + 3 x 8 tokens are 7 pages; 1 is the spare page


def test_after_out_of_memory_the_old_cache_is_gone_before_room_is_measured(
    model: Llama, eos: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = native(model, slots=8, eos_ids=[eos])
    steps, alive = [0], list[bool]()
    decode, find_room = Slots.decode, NativeEngine._find_room

    def fails_once(slots: Slots) -> list[int]:
        steps[0] += 1
        if steps[0] == 3:
            keys.append(weakref.ref(slots._cache.keys))
            raise torch.OutOfMemoryError("no room")
        return decode(slots)

    def looks(of: NativeEngine, slots: int) -> Room:
        alive.extend(key() is not None for key in keys)
        return find_room(of, slots)

    keys: list[weakref.ref[torch.Tensor]] = []
    monkeypatch.setattr(Slots, "decode", fails_once)
    monkeypatch.setattr(NativeEngine, "_find_room", looks)
    assert len(by_row(complete_all(engine, StaticRequests(REQUESTS)))) == len(REQUESTS)
    assert alive == [False]
    assert engine.batch_size == 4


def test_a_few_rows_are_not_admitted_alone_while_more_are_there(model: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = list[int]()
    prefill = Slots.prefill
    monkeypatch.setattr(
        Slots, "prefill", lambda slots, prompts, limits: sizes.append(len(prompts)) or prefill(slots, prompts, limits)
    )
    requests = [Request(r.row, r.prompt, 2 + r.row % 9) for r in random_requests(120)]
    assert len(list(native(model, slots=16, eos_ids=[NEVER]).generate(StaticRequests(requests)))) == 120
    assert min(sizes[:-2]) >= 4  # new rows start when a quarter of the slots is free


def test_captions_that_do_not_fit_the_models_positions_are_refused(model: Llama) -> None:
    with pytest.raises(InputError, match="do not fit in the model's 128 positions"):
        NativeEngine(model, num_beams=1, max_new_tokens=100, max_prompt_tokens=40, eos_ids=[EOS], prefix=PREFIX)


def generate(folder: Path, num_beams: int) -> dict[int, list[int]]:
    """Captions that transformers generates. The EOS ids come from the files in ``folder``."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ends, captions = model.generation_config.eos_token_id, {}
    for request in FEW:
        ids = torch.tensor([request.prompt])
        options = {"num_beams": num_beams, "do_sample": False, "max_new_tokens": LIMIT, "pad_token_id": 0}
        output = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        caption = output[0, len(request.prompt) :].tolist()
        ended = caption[-1] in (ends if isinstance(ends, list) else [ends])
        captions[request.row] = caption[:-1] if ended else caption
    return captions


def captions_of(folder: Path, num_beams: int, engine: str) -> dict[int, list[int]]:
    """Captions of one of our engines. EOS ids are read from ``folder``, as ranks read them."""
    eos_ids = eos_token_ids(folder)
    if engine == "native":
        some: Engine = native(load_llama(folder, CPU, torch.float32), num_beams=num_beams, eos_ids=eos_ids)
    else:
        reference = load_model(folder, CPU, torch.float32)
        settings = {"num_beams": num_beams, "max_new_tokens": LIMIT, "eos_ids": eos_ids}
        some = TransformersEngine(reference, pad_id=0, batch_size=8, **settings)
    return {c.row: c.token_ids for c in some.generate(StaticRequests(FEW))}


Generated = dict[tuple[int, int], dict[int, list[int]]]


@pytest.fixture(scope="module")
def generated() -> Generated:
    """Captions that transformers has generated so far, by the numbers of EOS ids and of beams."""
    return {}


@pytest.mark.parametrize("engine", ["native", "transformers"])
@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("number", [4, 60, 150])
def test_each_of_several_ends_ends_a_caption_as_in_generate(
    model_folder: Path, said: Counter[int], generated: Generated, num_beams: int, number: int, engine: str
) -> None:
    # With many EOS ids, most of a beam's likeliest tokens end the beam. The search must look at enough tokens to
    # find some that continue the beam.
    ends = [token for token, _ in said.most_common(4)] if number == 4 else list(range(100, 100 + number))
    (model_folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    if (number, num_beams) not in generated:  # for the other engine
        generated[number, num_beams] = generate(model_folder, num_beams)
    expected = generated[number, num_beams]
    assert len({len(ids) for ids in expected.values()}) > 1
    assert captions_of(model_folder, num_beams, engine) == expected


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_config_that_ties_a_head_of_its_own_means_what_generate_takes_it_for(
    checkpoint: Checkpoint, num_beams: int
) -> None:
    folder = checkpoint()
    alike = captions_of(folder, num_beams, "native")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    expected = generate(folder, num_beams)
    assert captions_of(folder, num_beams, "native") == expected == alike


@pytest.mark.parametrize("scaling", [{"type": "linear", "factor": 4.0}, {"rope_type": "default", "rope_theta": 100.0}])
def test_of_two_ways_to_scale_positions_the_one_of_generate_counts(
    checkpoint: Checkpoint, scaling: dict[str, object]
) -> None:
    folder = checkpoint()
    plain = captions_of(folder, 1, "native")
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_parameters"]["rope_theta"] == 10_000.0
    (folder / "config.json").write_text(json.dumps(config | {"rope_scaling": scaling}))
    expected = generate(folder, 1)
    assert captions_of(folder, 1, "native") == expected != plain


def test_a_checkpoints_own_ways_of_decoding_change_neither_engine(model_folder: Path, model: Llama) -> None:
    expected = {c.row: c.token_ids for c in native(model, num_beams=1).generate(StaticRequests(FEW))}
    ways = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 2, "suppress_tokens": [5], "eos_token_id": EOS}
    (model_folder / "generation_config.json").write_text(json.dumps(ways))
    config = json.loads((model_folder / "config.json").read_text())
    (model_folder / "config.json").write_text(json.dumps(config | ways))
    assert captions_of(model_folder, 1, "native") == captions_of(model_folder, 1, "transformers") == expected


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("page_tokens", [None, 4])
def test_a_row_whose_scores_are_not_finite_is_set_aside_and_spoils_no_other(
    model_folder: Path, model: Llama, eos: int, num_beams: int, page_tokens: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = REQUESTS[:24]
    expected = by_row(native(model, num_beams=num_beams, eos_ids=[eos]).generate(StaticRequests(requests)))
    prompts = Counter(token for request in requests for token in {*request.prompt})
    said = {token for tokens, _, _ in expected.values() for token in tokens}
    bad = max((token for token in prompts if prompts[token] < 6 and token not in {*said, *PREFIX}), key=prompts.get)
    touched = {request.row for request in requests if bad in request.prompt}
    assert len(touched) > 2
    reference = load_model(model_folder, CPU, torch.float32)
    with torch.inference_mode():
        model.embedding[bad] = reference.model.embed_tokens.weight[bad] = float("nan")
    settings = {"num_beams": num_beams, "max_new_tokens": LIMIT, "eos_ids": [eos]}
    of_transformers = TransformersEngine(reference, pad_id=0, batch_size=8, **settings)
    spoilt = by_row(complete_all(of_transformers, StaticRequests(requests)))
    failed = {row for row, completion in spoilt.items() if completion == ([], NOT_FINITE, 0)}
    assert touched <= failed  # a row also fails if one of its discarded beams had the token
    assert len(failed) < len(touched) + 3
    assert all(spoilt[row] == expected[row] for row in expected if row not in failed)

    monkeypatch.setattr(torch_ops, "PAGE_TOKENS", page_tokens)
    # With two slots, each slot serves many rows, one after the other.
    engine = native(model, num_beams=num_beams, slots=2, eos_ids=[eos])
    if page_tokens:
        engine._room = Room(2, -(-(36 + 11 * num_beams) // 4) + 3)  # so few pages that some rows must restart
    assert by_row(complete_all(engine, StaticRequests(requests))) == spoilt


def test_a_row_on_which_the_engine_raises_is_set_aside_and_the_others_are_fused(
    model: Llama, eos: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = by_row(native(model, eos_ids=[eos]).generate(StaticRequests(REQUESTS)))
    engine = native(model, slots=4, eos_ids=[eos])
    engine._slots = engine._allocate()
    prefill, poison = engine._slots.prefill, engine._own_part(REQUESTS[3])

    def fail_after_admission(prompts: list[list[int]], limits: list[int]) -> object:
        done = prefill(prompts, limits)
        if poison in prompts:
            raise RuntimeError("no such kernel")
        return done

    monkeypatch.setattr(engine._slots, "prefill", fail_after_admission)
    found = by_row(complete_all(engine, StaticRequests(REQUESTS)))
    poisoned = {request.row for request in REQUESTS if engine._own_part(request) == poison}
    assert REQUESTS[3].row in poisoned
    for row, completion in found.items():
        assert completion == (([], "error: RuntimeError: no such kernel", 0) if row in poisoned else expected[row])
