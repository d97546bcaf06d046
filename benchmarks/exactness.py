"""Compare the captions of the native engine and of transformers, token for token, in float32.

    python -m benchmarks.exactness --pairs FILE [--rows 500] [--model DIR] [--tokenizer FILE] [--device cpu]

Without --model, two models are tested: the demo model, and a random LLaMA with grouped-query attention, which uses the
tokenizer FILE. Each model runs with 3 beams and greedily, with several numbers of slots (rows decoded at once),
and with the rows in the file's order and shuffled. The engines add the same numbers in different orders, so their
rounding errors differ. If the engines choose different captions for a row, but the captions' scores differ by at most
1e-6, the row counts as a tie. Ties are printed. The exit code is 1 if captions differ in a row that is not a tie.

    python -m benchmarks.exactness --families --pairs FILE [--rows 100]

Compares the engines on a tiny random model of each family that the native engine supports: LLaMA 2 and 3, Mistral,
Qwen2, Qwen3.

    python -m benchmarks.exactness --pairs FILE --dtype bfloat16 --dtype float8 [--rows 500] [--model DIR]

Counts how many captions of the native engine are the same as in float32, for the demo model and for --model. The dtype
float8 works on a CPU, too.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.device_rates import FLOAT8
from benchmarks.families import FAMILIES, write_family
from benchmarks.workload import read_pairs
from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.fusion.engine import Completion, Request, StaticRequests
from capsfusion_tasks.fusion.model_tokenizer import load_tokenizer
from capsfusion_tasks.fusion.native.checkpoint import load_llama
from capsfusion_tasks.fusion.native.engine import NativeEngine
from capsfusion_tasks.fusion.native.model import Llama
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS, prompt_tokens, shared_prefix
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer, Tokenizer
from capsfusion_tasks.fusion.transformers_engine import TransformersEngine, load_model

MAX_NEW_TOKENS = 80
TIE = 1e-6
DTYPES = {"bfloat16": torch.bfloat16, "float8": FLOAT8}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pairs", type=Path, help="file with the columns laion_2b and laion_coco (default: generated pairs)"
    )
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument(
        "--model", type=Path, action="append", help="checkpoint on which to compare the engines (repeatable)"
    )
    parser.add_argument(
        "--tokenizer", type=Path, default=BUNDLED_MODEL / "tokenizer.model", help="tokenizer.model for random models"
    )
    parser.add_argument(
        "--families", action="store_true", help="compare the engines on a random model of each model family"
    )
    parser.add_argument("--slots", type=int, nargs="+", default=[5, 32])
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        action="append",
        help="compare the captions of a model in this dtype with those in float32 (repeatable)",
    )
    args = parser.parse_args()
    torch.backends.cuda.enable_cudnn_sdp(False)  # use no cuDNN attention, as in the pipeline; fusion/node.py says why
    if args.dtype:
        folders = [BUNDLED_MODEL, *(args.model or [])]
        Console().print(
            compare_dtypes(folders, args.dtype, read_pairs(args.pairs, args.rows), args.device, args.slots[-1])
        )
        return 0

    table = Table(title=f"{args.rows} rows, float32, {args.device}: the native engine against transformers' generate")
    for heading in ("model", "beams", "slots", "order", "same", "ties", "other"):
        table.add_column(heading, justify="left" if heading in ("model", "order") else "right")
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        pairs = read_pairs(args.pairs, args.rows)
        if args.families:
            texts = [text for pair in pairs for text in pair]
            folders = [write_family(Path(scratch) / name, name, texts, args.tokenizer) for name in FAMILIES]
        else:
            folders = args.model or [BUNDLED_MODEL, random_checkpoint(Path(scratch), args.tokenizer)]
        for folder in folders:
            subject = Subject(folder, pairs, args.device, random_weights=folder.parent == Path(scratch))
            for beams in (3, 1):
                expected = subject.complete_by_transformers(beams)
                for slots, order in [(slots, "as given") for slots in args.slots] + [(args.slots[-1], "shuffled")]:
                    shuffled = random.Random(0).sample(subject.requests, len(subject.requests))
                    rows = shuffled if order == "shuffled" else subject.requests
                    same, ties, other = subject.compare(expected, subject.complete(rows, beams, slots))
                    wrong += other
                    table.add_row(subject.name, *map(str, (beams, slots, order, same, ties, other)))
    Console().print(table)
    return 1 if wrong else 0


class Subject:
    """A checkpoint, loaded in the native engine and in transformers, and the rows whose captions are compared.

    ``name`` is the checkpoint's name in tables.
    """

    def __init__(
        self, folder: Path, pairs: Sequence[tuple[str, ...]], device: torch.device, *, random_weights: bool
    ) -> None:
        self._tokenizer = load_tokenizer(folder)
        self.requests = requests_of(pairs, self._tokenizer)
        self.name = name_of(folder)
        self._reference, self._model = (load(folder, device, torch.float32) for load in (load_model, load_llama))
        self._eos = likely_token(self._reference, self.requests[:32]) if random_weights else self._tokenizer.eos_id

    def complete_by_transformers(self, beams: int) -> dict[int, Completion]:
        engine = TransformersEngine(
            self._reference,
            num_beams=beams,
            max_new_tokens=MAX_NEW_TOKENS,
            eos_ids=[self._eos],
            pad_id=self._tokenizer.pad_id,
            batch_size=32,
        )
        completions = engine.generate(StaticRequests(self.requests))
        return {c.row: c for c in track(completions, f"transformers, {beams} beams", total=len(self.requests))}

    def complete(self, rows: Sequence[Request], beams: int, slots: int) -> list[Completion]:
        """Captions of the native engine, in the order in which rows finish."""
        return complete(self._model, self._tokenizer, rows, eos=self._eos, beams=beams, slots=slots)

    def compare(self, expected: dict[int, Completion], got: list[Completion]) -> tuple[int, int, int]:
        """Count the rows with equal captions, the rows with ties, and the rows whose captions differ without a tie."""
        if sorted(c.row for c in got) != sorted(expected):
            raise RuntimeError(
                f"the native engine returned {len(got)} captions for {len(expected)} rows; expected one for each row"
            )
        ties = other = 0
        for ours in got:
            theirs = expected[ours.row]
            if (ours.token_ids, ours.finish_reason) == (theirs.token_ids, theirs.finish_reason):
                continue
            prompt = self.requests[ours.row].prompt
            scores = [mean_log_prob(self._reference, prompt, c, self._eos) for c in (ours, theirs)]
            tie = abs(scores[0] - scores[1]) <= TIE
            ties, other = ties + tie, other + (not tie)
            print(f"row {ours.row}: {'tie' if tie else 'DIFFERENT'}, scores {scores[0]:.8f} and {scores[1]:.8f}")
        return len(got) - ties - other, ties, other


def compare_dtypes(
    folders: Sequence[Path], dtypes: Sequence[str], pairs: Sequence[tuple[str, ...]], device: torch.device, slots: int
) -> Table:
    """For each checkpoint and dtype, the number of captions that are the same as in float32, token for token."""
    table = Table(title=f"captions that equal those in float32: {len(pairs)} rows, {device}, {slots} slots")
    for heading in ("model", "dtype", "beams", "same", "other"):
        table.add_column(heading, justify="left" if heading in ("model", "dtype") else "right")
    for folder in folders:
        tokenizer = load_tokenizer(folder)
        requests = requests_of(pairs, tokenizer)
        expected: dict[int, dict[int, list[int]]] = {}  # number of beams → row → token ids
        for name in ("float32", *dtypes):
            model = load_llama(folder, device, DTYPES.get(name, torch.float32))
            for beams in (3, 1):
                done = complete(model, tokenizer, requests, eos=tokenizer.eos_id, beams=beams, slots=slots)
                captions = {completion.row: completion.token_ids for completion in done}
                if name == "float32":
                    expected[beams] = captions
                else:
                    same = sum(captions[row] == ids for row, ids in expected[beams].items())
                    table.add_row(name_of(folder), name, *map(str, (beams, same, len(pairs) - same)))
    return table


def complete(
    model: Llama, tokenizer: Tokenizer, rows: Sequence[Request], *, eos: int, beams: int, slots: int
) -> list[Completion]:
    """Captions of the native engine, in the order in which rows finish."""
    engine = NativeEngine(
        model,
        num_beams=beams,
        max_new_tokens=MAX_NEW_TOKENS,
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        eos_ids=[eos],
        prefix=shared_prefix(tokenizer),
        batch_size=slots,
    )
    return list(engine.generate(StaticRequests(rows)))


def requests_of(pairs: Sequence[tuple[str, ...]], tokenizer: Tokenizer) -> list[Request]:
    return [Request(row, prompt_tokens(tokenizer, raw, synthetic)) for row, (raw, synthetic) in enumerate(pairs)]


def name_of(folder: Path) -> str:
    return "demo model" if folder == BUNDLED_MODEL else folder.name


@torch.inference_mode()
def mean_log_prob(model: PreTrainedModel, prompt: list[int], completion: Completion, eos: int) -> float:
    """A caption's score: the mean log probability of its tokens, from one forward pass, with the softmax in float64."""
    ids = completion.token_ids + ([eos] if completion.finish_reason == "stop" else [])
    # logits: [tokens of the caption, size of the vocabulary]
    logits = model(torch.tensor([prompt + ids], device=model.device)).logits[0, len(prompt) - 1 : -1].double()
    return float(logits.log_softmax(-1)[torch.arange(len(ids)), ids].mean())


def random_checkpoint(folder: Path, tokenizer_file: Path) -> Path:
    """Write a random LLaMA with grouped-query attention. Its large weights make captions' scores differ clearly."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=LlamaTokenizer(tokenizer_file).vocab_size + 1,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.15,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "random LLaMA")
    (folder / "random LLaMA" / "tokenizer.model").write_bytes(tokenizer_file.read_bytes())
    return folder / "random LLaMA"


def likely_token(model: PreTrainedModel, requests: Sequence[Request]) -> int:
    """A token in about a third of the model's captions. It serves as EOS: random weights never produce the real EOS."""
    engine = TransformersEngine(
        model, num_beams=1, max_new_tokens=40, eos_ids=[model.config.vocab_size], pad_id=0, batch_size=32
    )
    captions = [set(completion.token_ids) for completion in engine.generate(StaticRequests(requests))]
    counts = Counter(token for caption in captions for token in caption)
    return min(counts, key=lambda token: (abs(counts[token] - len(captions) / 3), token))


if __name__ == "__main__":
    sys.exit(main())
