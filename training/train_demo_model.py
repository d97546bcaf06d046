"""Train the demo model from scratch on pairs that `capsfusion_tasks.demo.pairs` generates.

There are six steps. All but the last write their file to the folder --work:

    python training/train_demo_model.py tokenizer --work /tmp/demo_model     # tokenizer.model
    python training/train_demo_model.py pairs     --work /tmp/demo_model     # pairs.npz, token ids of all pairs
    python training/train_demo_model.py train     --work /tmp/demo_model     # checkpoint.pt; --resume continues from it
    python training/train_demo_model.py unlikelihood --work /tmp/demo_model --minutes 8 --lr 1e-4 --muon-lr 3e-4
    python training/train_demo_model.py average   --work /tmp/demo_model --start before.pt --share 0.5
    python training/train_demo_model.py export    --work /tmp/demo_model --out capsfusion_tasks/demo/model

The step unlikelihood trains the model not to repeat phrases, and ends after --minutes. The step average mixes the
checkpoint in --work with another checkpoint, here before.pt. Both steps replace checkpoint.pt.

The step train ends after --minutes or after --steps, whichever comes first, and the learning rate falls to 0 by then.
On a machine with other load, set GOMP_SPINCOUNT=2000, so that threads do not spin while they wait for each other.

On a CPU with AMX or AVX-512 BF16, bfloat16 matrix products are several times as fast as float32; on other CPUs pass
--dtype float32. --start begins a new training from the weights and optimizer states of a checkpoint, for example with
other pairs.

By default, glibc frees large buffers after each step, and allocating them again takes longer than the arithmetic. To
prevent this, set
MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_TOP_PAD_=268435456 MALLOC_ARENA_MAX=1.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from capsfusion_tasks.demo.pairs import make_pair
from capsfusion_tasks.fusion.prompt import build_prompt
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from training.decoding import greedy
from training.export import average, export
from training.llama import Backbone, Shape
from training.optimization import checkpoint, load, optimizers, restart, save, schedule, target_loss
from training.pairs_file import Pairs, make_pairs_file, train_tokenizer
from training.unlikelihood import Unlikelihood, train_unlikelihood


def look(model: Backbone, tokenizer: LlamaTokenizer, count: int = 40) -> str:
    """One line of text: how well the model fuses held-out pairs, whose names training has not seen."""
    rng = random.Random(1234)
    pairs = [make_pair(rng, "heldout") for _ in range(count)]
    prompts = [torch.tensor([tokenizer.encode(build_prompt(pair.raw, pair.synthetic))]) for pair in pairs]
    ids = [greedy(model, prompt.to(model.cos.device), 64, tokenizer.eos_id, torch.float32)[0] for prompt in prompts]
    answers = [(pair, tokenizer.decode(each)) for pair, each in zip(pairs, ids, strict=True)]
    words = [word in caption for pair, caption in answers for entity in pair.entities for word in entity.split()]
    whole = sum(all(entity in caption for entity in pair.entities) for pair, caption in answers)
    exact = sum(pair.fused == caption for pair, caption in answers)
    return (
        f"held-out: entity words kept {sum(words) / len(words):.3f}, all entities {whole / count:.3f}, "
        f"exact {exact / count:.3f}; e.g. {pairs[0].raw!r} -> {answers[0][1]!r}"
    )


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch.set_default_device(args.device)
    work, dtype = args.work, getattr(torch, args.dtype)
    tokenizer = LlamaTokenizer(work / "tokenizer.model")
    shape = Shape(tokenizer.vocab_size, args.hidden, args.ffn, args.layers, args.hidden // 64)
    model = Backbone(shape)
    weights = list(model.parameters())
    updates = optimizers(model, args.lr, args.muon_lr)
    step, tokens, minutes_before = 0, 0, 0.0
    if args.resume and (work / "checkpoint.pt").exists():
        state = load(model, work / "checkpoint.pt", args.device)
        for update, update_state in zip(updates, state["optimizers"], strict=True):
            update.load_state_dict(update_state)
        step, tokens, minutes_before = state["step"], state["tokens"], state["minutes"]
    elif args.start:  # begin with the checkpoint --start and a new schedule of the learning rates
        state = load(model, args.start, args.device)
        restart(updates, state["optimizers"], (args.muon_lr, args.lr))
        tokens = state["tokens"]
    print(f"{sum(weight.numel() for weight in weights):,} parameters; steps {step:,} to {args.steps:,}", flush=True)
    forward: Callable[..., Tensor] = model
    head_loss: Callable[..., Tensor] = target_loss
    if args.compile:
        torch._dynamo.config.cache_size_limit = 64
        forward, head_loss = torch.compile(model, dynamic=False), torch.compile(target_loss, dynamic=True)

    pairs = Pairs(work / "pairs.npz", args.batch_tokens, args.seed)
    started = reported = looked = saved = time.monotonic()
    first_step, reported_tokens, losses = step, tokens, []
    for *batch, count in pairs.batches(step):
        inputs, positions, targets = (each.to(args.device) for each in batch)
        minutes = minutes_before + (time.monotonic() - started) / 60
        done = max(step / args.steps, minutes / args.minutes)
        schedule(updates, step, done)
        with torch.autocast(args.device, dtype, enabled=dtype != torch.float32):
            hidden = forward(inputs, dtype).flatten(0, 1)[positions]  # [N, hidden]
            loss = head_loss(hidden, model.embed_tokens.weight, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        for update in updates:
            update.step()
            update.zero_grad(set_to_none=True)
        step, tokens = step + 1, tokens + count
        losses.append(loss.item())
        now, last = time.monotonic(), step == args.steps or done >= 1.0
        if now - reported > args.report_seconds or last:
            rate = (tokens - reported_tokens) / (now - reported)
            left = min((args.steps - step) * (now - started) / (step - first_step) / 60, args.minutes - minutes)
            mean_loss = sum(losses) / len(losses)
            print(f"step {step:,} {tokens / 1e6:.2f}M tokens loss {mean_loss:.4f}", end=" ")
            print(f"{rate:,.0f} tokens/s, {left:.1f} minutes left", flush=True)
            reported, reported_tokens, losses = now, tokens, []
        if now - saved > args.save_seconds or last:
            progress = {"step": step, "tokens": tokens, "minutes": minutes}
            save(work / "checkpoint.pt", checkpoint(model, updates, asdict(shape), progress))
            saved = now
        if now - looked > args.look_seconds or last:
            print(look(model, tokenizer), flush=True)
            looked = time.monotonic()
        if last:
            break


def unlearn_loops(args: argparse.Namespace) -> None:
    """Run unlikelihood training from --start or the checkpoint in --work, and write checkpoint.pt."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch.set_default_device(args.device)
    tokenizer = LlamaTokenizer(args.work / "tokenizer.model")
    file = args.start or args.work / "checkpoint.pt"
    start = torch.load(file, map_location=args.device)
    model = Backbone(Shape(**start["shape"]))
    model.load_state_dict(start["model"])
    updates = optimizers(model, args.lr, args.muon_lr)
    restart(updates, start["optimizers"], (args.muon_lr, args.lr))
    settings = Unlikelihood(args.minutes, args.unlikelihood_weight, args.batch_tokens, args.seed)
    progress = {"step": start["step"], "tokens": start["tokens"], "minutes": args.minutes}
    pairs_file, dtype = args.work / "pairs.npz", getattr(torch, args.dtype)
    for done in train_unlikelihood(model, updates, pairs_file, tokenizer.eos_id, settings, dtype):
        progress["step"], progress["tokens"] = start["step"] + done.steps, start["tokens"] + done.tokens
        print(
            f"{done.minutes:.1f} minutes, step {progress['step']:,}: loss {done.loss:.4f}, unlikelihood loss "
            f"{done.unlikelihood:.4f}; {done.loops:.3f} of the last decoded captions loop",
            flush=True,
        )
    save(args.work / "checkpoint.pt", checkpoint(model, updates, start["shape"], progress))
    print(look(model, tokenizer), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("tokenizer", "pairs", "train", "unlikelihood", "average", "export"))
    parser.add_argument("--work", type=Path, required=True, help="folder for intermediate files")
    parser.add_argument(
        "--out", type=Path, default=Path("capsfusion_tasks/demo/model"), help="folder for the exported model"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--vocab-size", type=int, default=Shape.vocab_size)
    parser.add_argument("--tokenizer-pairs", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=700_000)
    parser.add_argument(
        "--other-words", type=float, default=0.6, help="share of scenes in which random words replace some words"
    )
    parser.add_argument(
        "--free", type=float, default=0.5, help="share of pairs of random words; the other pairs describe scenes"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--hidden", type=int, default=Shape.hidden_size, help="hidden size, a multiple of the head size 64"
    )
    parser.add_argument("--ffn", type=int, default=Shape.intermediate_size)
    parser.add_argument("--layers", type=int, default=Shape.num_hidden_layers)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument(
        "--minutes",
        type=float,
        default=math.inf,
        help="for train: end after this many minutes, or after --steps, whichever comes first; for unlikelihood: end"
        " after this many minutes",
    )
    parser.add_argument("--batch-tokens", type=int, default=4096, help="tokens per batch, including padding")
    parser.add_argument("--lr", type=float, default=1.6e-3)
    parser.add_argument("--muon-lr", type=float, default=4e-3, help="peak learning rate of the layers' matrices")
    parser.add_argument(
        "--unlikelihood-weight",
        type=float,
        default=0.25,
        help="weight of the loss of captions that repeat phrases; the loss of other pairs has weight 1",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--compile", action="store_true", help="use torch.compile, which needs a C++ compiler")
    parser.add_argument("--report-seconds", type=float, default=15.0)
    parser.add_argument("--save-seconds", type=float, default=180.0)
    parser.add_argument(
        "--look-seconds", type=float, default=300.0, help="seconds between evaluations on held-out pairs"
    )
    parser.add_argument("--resume", action="store_true", help="continue training from the checkpoint in --work")
    parser.add_argument(
        "--start", type=Path, help="checkpoint file to start from (train, unlikelihood) or to average with (average)"
    )
    parser.add_argument(
        "--share",
        type=float,
        default=0.5,
        help="for average: weight of the checkpoint in --work, from 0 to 1; the checkpoint --start has the rest",
    )
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.step == "tokenizer":
        train_tokenizer(args.work, args.vocab_size, args.tokenizer_pairs, args.seed)
    elif args.step == "pairs":
        make_pairs_file(args.work, args.pairs, args.seed, args.workers, args.other_words, args.free)
    elif args.step == "train":
        train(args)
    elif args.step == "unlikelihood":
        if args.minutes == math.inf:
            parser.error("unlikelihood needs --minutes, after which it ends and saves the model")
        unlearn_loops(args)
    elif args.step == "average":
        if args.start is None:
            parser.error("average needs --start, the checkpoint to average with")
        average(args.work, args.start, args.share)
    else:
        export(args.work, args.out)


if __name__ == "__main__":
    main()
