"""Train the demo model from scratch on pairs that `capsfusion_tasks.demo.pairs` makes.

Three steps, each with its file in the work folder, so that a stopped run goes on where it was:

    python training/train_demo_model.py tokenizer --work /tmp/demo_model     # tokenizer.model
    python training/train_demo_model.py pairs     --work /tmp/demo_model     # pairs.npz, token ids of all pairs
    python training/train_demo_model.py train     --work /tmp/demo_model     # checkpoint.pt, again and again
    python training/train_demo_model.py export    --work /tmp/demo_model --out capsfusion_tasks/demo/model

On a CPU with AMX bfloat16 matrix products are five to ten times as fast as float32 ones; elsewhere pass --dtype float32.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capsfusion_tasks.demo.pairs import MadePair, make_pair
from capsfusion_tasks.fusion.prompt import PROMPT_TEMPLATE, build_prompt
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer


@dataclass(frozen=True)
class Shape:
    """The LLaMA's sizes, named as in transformers' LlamaConfig."""

    vocab_size: int = 6144
    hidden_size: int = 320
    intermediate_size: int = 832
    num_hidden_layers: int = 6
    num_attention_heads: int = 5
    max_position_embeddings: int = 512
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


# -- tokenizer and pairs ----------------------------------------------------------------------------------------------


def template_symbols() -> list[str]:
    """The template's fixed parts as single tokens: 3 instead of 130, and none of them can be learned wrongly."""
    start, rest = PROMPT_TEMPLATE.split(" {laion_2b}")
    middle, end = rest.split(" {laion_coco}")
    return [("\u2581" + start).replace(" ", "\u2581"), middle.replace(" ", "\u2581"), end.replace(" ", "\u2581")]


def train_tokenizer(work: Path, vocab_size: int, texts: int, seed: int) -> None:
    """SentencePiece BPE with LLaMA's settings (identity, byte fallback, split digits) on made pairs."""
    rng = random.Random(seed)

    def lines() -> Iterator[str]:
        for _ in range(texts):
            pair = make_pair(rng, "train")
            yield from (pair.raw, pair.synthetic, pair.fused)

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines(),
        model_prefix=str(work / "tokenizer"),
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        character_coverage=0.9999,
        max_sentence_length=65536,
        user_defined_symbols=template_symbols(),
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=2,
        minloglevel=1,
    )


def _encode_share(job: tuple[Path, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of `count` pairs, flat, and [count, 2] lengths of prompt and target."""
    tokenizer_file, seed, count = job
    os.nice(5)
    tokenizer, rng = LlamaTokenizer(tokenizer_file), random.Random(seed)
    ids: list[np.ndarray] = []
    lengths = np.zeros((count, 2), np.int32)
    for row in range(count):
        pair = make_pair(rng, "train")
        prompt = tokenizer.encode(build_prompt(pair.raw, pair.synthetic))
        target = [*tokenizer.encode(pair.fused, bos=False), tokenizer.eos_id]
        ids.append(np.array(prompt + target, np.uint16))
        lengths[row] = len(prompt), len(target)
    return np.concatenate(ids), lengths


def make_pairs_file(work: Path, pairs: int, seed: int, workers: int) -> None:
    """pairs.npz: the token ids of all training pairs, from `workers` processes with a seed for each share of 20,000."""
    share = 20_000
    jobs = [(work / "tokenizer.model", seed + 1 + number, share) for number in range(math.ceil(pairs / share))]
    with multiprocessing.Pool(workers) as pool:
        parts = pool.map(_encode_share, jobs, chunksize=1)
    ids, lengths = (np.concatenate(column) for column in zip(*parts, strict=True))
    np.savez(work / "pairs.npz", ids=ids, lengths=lengths)
    whole = lengths.sum(1)
    print(
        f"{len(lengths):,} pairs, {whole.sum():,} tokens, mean {whole.mean():.1f}, prompt {lengths[:, 0].mean():.1f}, "
        f"target {lengths[:, 1].mean():.1f}, p99 {np.percentile(whole, 99):.0f}; targets over 80 tokens: {(lengths[:, 1] > 80).mean():.2%}"
    )


# Sequences are padded to one of these lengths: few shapes, so that each is compiled once.
BUCKETS = (48, 64, 80, 96, 128, 192)


class Pairs:
    """Batches of similar length: [B, S] ids padded on the right with 0 and the positions that have a loss.

    Attention is causal, so that padding on the right needs no mask: no token of a pair comes after it.
    """

    def __init__(self, file: Path, tokens_per_batch: int, seed: int) -> None:
        with np.load(file) as arrays:
            self.ids, self.lengths = arrays["ids"], arrays["lengths"]
        self.whole = self.lengths.sum(1)
        self.starts = np.concatenate([[0], np.cumsum(self.whole)[:-1]])
        self.tokens_per_batch, self.seed = tokens_per_batch, seed

    def batches(self, first: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor, int]]:
        """Endless (inputs [B, S], loss positions in the flattened [B*S], their targets, pairs' tokens), from batch `first`."""
        number = 0
        for epoch in range(1_000_000):
            order = np.random.default_rng(self.seed + epoch).permutation(len(self.whole))
            for rows in self._grouped(order):
                if number >= first:
                    yield self._tensors(rows)
                number += 1

    def _grouped(self, order: np.ndarray) -> Iterator[np.ndarray]:
        """Rows of one bucket as soon as a batch of it is full; what is left at the epoch's end is dropped."""
        waiting: dict[int, list[int]] = {bucket: [] for bucket in BUCKETS}
        for row in order:
            bucket = next((b for b in BUCKETS if self.whole[row] <= b + 1), None)  # inputs are one shorter
            if bucket is None:
                continue
            waiting[bucket].append(row)
            if len(waiting[bucket]) == self.tokens_per_batch // bucket:
                yield np.array(waiting[bucket])
                waiting[bucket] = []

    def _tensors(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor, int]:
        longest = int(self.whole[rows].max()) - 1
        length = next(b for b in BUCKETS if longest <= b)
        inputs = np.zeros((len(rows), length), np.int64)
        positions, targets = [], []
        for place, row in enumerate(rows):
            start, prompt, whole = self.starts[row], self.lengths[row, 0], self.whole[row]
            ids = self.ids[start : start + whole].astype(np.int64)
            inputs[place, : whole - 1] = ids[:-1]
            positions.append(place * length + np.arange(prompt - 1, whole - 1))
            targets.append(ids[prompt:])
        return (
            torch.from_numpy(inputs),
            torch.from_numpy(np.concatenate(positions)),
            torch.from_numpy(np.concatenate(targets)),
            int(self.whole[rows].sum()),
        )


# -- model ------------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.head_dim = shape.num_attention_heads, shape.head_dim
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(shape.hidden_size, shape.hidden_size, bias=False) for _ in range(4)
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, hidden = x.shape
        q, k, v = (
            f(x).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
            for f in (self.q_proj, self.k_proj, self.v_proj)
        )  # [B, H, S, D]
        # In float32: the backward pass of bfloat16 attention takes 20 times as long on a CPU, half of a whole step.
        q, k, v = _rotate(q.float(), cos, sin), _rotate(k.float(), cos, sin), v.float()
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True).to(x.dtype)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, hidden))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions in transformers' layout: the first half of a head pairs with the second."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Mlp(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Norm(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(shape.hidden_size)), shape.rms_norm_eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight).to(x.dtype)


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm, self.self_attn = Norm(shape), Attention(shape)
        self.post_attention_layernorm, self.mlp = Norm(shape), Mlp(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    """LLaMA without its head; parameters are named as in transformers' LlamaForCausalLM after `model.`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = Norm(shape)
        frequencies = shape.rope_theta ** (-torch.arange(0, shape.head_dim, 2) / shape.head_dim)
        angles = torch.outer(torch.arange(shape.max_position_embeddings), frequencies).repeat(1, 2)  # [P, D]
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                depth = 2 * shape.num_hidden_layers if name.endswith(("o_proj.weight", "down_proj.weight")) else 1
                nn.init.normal_(weight, std=0.02 if "embed" in name else shape.hidden_size**-0.5 / math.sqrt(depth))

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """[B, S] ids to [B, S, hidden] in `dtype`, normalised."""
        x = self.embed_tokens(ids).to(dtype)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


# -- training ---------------------------------------------------------------------------------------------------------


def target_loss(hidden: Tensor, embedding: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of [N, hidden] against [N] ids, with the embedding as head."""
    return F.cross_entropy(F.linear(hidden, embedding).float(), targets)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 200) -> float:
    """Up in `warmup` steps, held until half of the steps, then linearly to 0."""
    return peak * min(1.0, (step + 1) / warmup, 2.0 * (1.0 - step / steps))


@torch.no_grad()
def greedy(
    model: Backbone, tokenizer: LlamaTokenizer, pairs: list[MadePair], dtype: torch.dtype, new_tokens: int = 64
) -> list[str]:
    """Fused captions by greedy decoding without a cache: slow, and enough for a look at a few pairs."""
    prompts = [tokenizer.encode(build_prompt(pair.raw, pair.synthetic)) for pair in pairs]
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    ids = torch.zeros(len(pairs), int(lengths.max()) + new_tokens, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    rows, done, ends = torch.arange(len(pairs)), torch.zeros(len(pairs), dtype=torch.bool), lengths.clone()
    for _ in range(new_tokens):
        hidden = model(ids[:, : int(ends.max())], dtype)[rows, ends - 1]
        following = (hidden.float() @ model.embed_tokens.weight.T).argmax(-1)
        done |= following == tokenizer.eos_id
        if done.all():
            break
        ids[rows[~done], ends[~done]] = following[~done]
        ends += (~done).long()
    return [tokenizer.decode(ids[row, lengths[row] : ends[row]].tolist()) for row in range(len(pairs))]


def look(model: Backbone, tokenizer: LlamaTokenizer, dtype: torch.dtype, count: int = 40) -> str:
    """Shares of held-out entities and of their words that greedy captions keep, and of exact matches."""
    rng = random.Random(1234)
    pairs = [make_pair(rng, "heldout") for _ in range(count)]
    captions = greedy(model, tokenizer, pairs, dtype)
    words = [
        (word, caption)
        for pair, caption in zip(pairs, captions, strict=True)
        for entity in pair.entities
        for word in entity.split()
    ]
    kept = sum(word in caption for word, caption in words) / len(words)
    whole = (
        sum(all(entity in caption for entity in pair.entities) for pair, caption in zip(pairs, captions, strict=True))
        / count
    )
    exact = sum(pair.fused == caption for pair, caption in zip(pairs, captions, strict=True)) / count
    return f"held-out: entity words kept {kept:.3f}, all entities {whole:.3f}, exact {exact:.3f}; e.g. {pairs[0].raw!r} -> {captions[0]!r}"


def save(file: Path, state: dict[str, Any]) -> None:
    """Replace `file` in one step: a run that is stopped while it saves leaves the checkpoint before."""
    part = file.with_suffix(".part")
    torch.save(state, part)
    part.replace(file)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    work, dtype = args.work, getattr(torch, args.dtype)
    tokenizer = LlamaTokenizer(work / "tokenizer.model")
    shape = Shape(tokenizer.vocab_size, args.hidden, args.ffn, args.layers, args.hidden // 64)
    model = Backbone(shape)
    decayed = [weight for weight in model.parameters() if weight.dim() == 2]
    plain = [weight for weight in model.parameters() if weight.dim() != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.95),
        fused=True,
    )
    step = tokens = 0
    if args.resume and (work / "checkpoint.pt").exists():
        state = torch.load(work / "checkpoint.pt", weights_only=False)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, tokens = state["step"], state["tokens"]
    print(
        f"{sum(weight.numel() for weight in model.parameters()):,} parameters, {args.steps:,} steps of about {args.batch_tokens:,} tokens, from step {step:,}",
        flush=True,
    )
    forward, head_loss = model, target_loss
    if args.compile:
        torch._dynamo.config.cache_size_limit = 64
        forward, head_loss = torch.compile(model, dynamic=False), torch.compile(target_loss, dynamic=True)

    pairs = Pairs(work / "pairs.npz", args.batch_tokens, args.seed)
    started = reported = looked = saved = time.monotonic()
    first_step, first_tokens, window = step, tokens, []
    reported_tokens = tokens
    for inputs, positions, targets, count in pairs.batches(step):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            hidden = forward(inputs, dtype).flatten(0, 1)[positions]  # [N, hidden]
            loss = head_loss(hidden, model.embed_tokens.weight, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step, tokens = step + 1, tokens + count
        window.append(loss.item())
        now = time.monotonic()
        if now - reported > args.report_seconds or step == args.steps:
            rate = (tokens - reported_tokens) / (now - reported)
            left = (args.steps - step) * (now - started) / (step - first_step)
            print(
                f"{time.strftime('%H:%M:%S')} step {step:,} tokens {tokens / 1e6:.2f}M loss {sum(window) / len(window):.4f} {rate:,.0f} tokens/s left {left / 60:.1f} min",
                flush=True,
            )
            reported, reported_tokens, window = now, tokens, []
        if now - saved > 180 or step == args.steps:
            save(
                work / "checkpoint.pt",
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "tokens": tokens,
                    "shape": asdict(shape),
                    "minutes": (now - started) / 60,
                },
            )
            saved = now
        if now - looked > 300 or step == args.steps:
            print(look(model, tokenizer, dtype), flush=True)
            looked = time.monotonic()
        if step == args.steps:
            break
    print(f"{(tokens - first_tokens) / 1e6:.1f}M tokens in {(time.monotonic() - started) / 60:.1f} minutes")


# -- export -----------------------------------------------------------------------------------------------------------


def llama_config(shape: Shape) -> dict[str, Any]:
    """config.json of an ordinary LlamaForCausalLM."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": shape.max_position_embeddings,
        "mlp_bias": False,
        "num_attention_heads": shape.num_attention_heads,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_key_value_heads": shape.num_attention_heads,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": shape.vocab_size,
    }


def export(work: Path, out: Path) -> None:
    """Write the checkpoint as a transformers model folder with float16 weights."""
    from safetensors.torch import save_file

    state = torch.load(work / "checkpoint.pt", weights_only=False)
    out.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{name}": weight.half().contiguous() for name, weight in state["model"].items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(llama_config(Shape(**state["shape"])), indent=2) + "\n")
    generation = {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "num_beams": 3,
        "max_new_tokens": 80,
        "do_sample": False,
    }
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    (out / "tokenizer.model").write_bytes((work / "tokenizer.model").read_bytes())
    print(
        f"step {state['step']:,}, {state['tokens'] / 1e6:.1f}M tokens: {sum(f.stat().st_size for f in out.iterdir()) / 1e6:.1f} MB in {out}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("tokenizer", "pairs", "train", "export"))
    parser.add_argument("--work", type=Path, required=True, help="folder of intermediate files")
    parser.add_argument(
        "--out", type=Path, default=Path("capsfusion_tasks/demo/model"), help="folder of the exported model"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--vocab-size", type=int, default=Shape.vocab_size)
    parser.add_argument("--tokenizer-pairs", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=700_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=Shape.hidden_size, help="a multiple of 64, the size of a head")
    parser.add_argument("--ffn", type=int, default=Shape.intermediate_size)
    parser.add_argument("--layers", type=int, default=Shape.num_hidden_layers)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch-tokens", type=int, default=6144, help="padded tokens of a batch")
    parser.add_argument("--lr", type=float, default=1.6e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile, which needs a C++ compiler")
    parser.add_argument("--report-seconds", type=float, default=15.0)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.step == "tokenizer":
        train_tokenizer(args.work, args.vocab_size, args.tokenizer_pairs, args.seed)
    elif args.step == "pairs":
        make_pairs_file(args.work, args.pairs, args.seed, args.workers)
    elif args.step == "train":
        train(args)
    else:
        export(args.work, args.out)


if __name__ == "__main__":
    main()
