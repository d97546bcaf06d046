"""Random models for tests, in the file layouts of real models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def write_checkpoint(folder: Path, tokenizer_model: Path, *, vocab_size: int, layers: int = 2) -> Path:
    """Write a random LLaMA in the file layout of BAAI/CapsFus-LLaMA: .bin shards with an index, added_tokens.json.

    Does not import transformers, because the import takes four seconds and most tests do not need transformers.
    """
    import torch

    hidden, inner, heads = 32, 64, 4
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 32000 if vocab_size == 32001 else 0,
        "torch_dtype": "float32",
    }
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.02

    weights = {"model.embed_tokens.weight": random(vocab_size, hidden)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        weights |= {f"{prefix}.self_attn.{name}_proj.weight": random(hidden, hidden) for name in "qkvo"}
        weights |= {f"{prefix}.mlp.{name}_proj.weight": random(inner, hidden) for name in ("gate", "up")}
        weights[f"{prefix}.mlp.down_proj.weight"] = random(hidden, inner)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}.{name}.weight"] = torch.ones(hidden)
    weights |= {"model.norm.weight": torch.ones(hidden), "lm_head.weight": random(vocab_size, hidden)}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = list(weights)
    shards = 3
    index = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        part = {name: weights[name].clone() for name in names[number::shards]}
        torch.save(part, folder / file)
        index.update(dict.fromkeys(part, file))
    total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    index_file = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index_file))
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": 32000}))
    # A checkpoint may enable sampling by default. Fusing must ignore this.
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": True, "temperature": 0.9, "num_beams": 1}))
    shutil.copyfile(tokenizer_model, folder / "tokenizer.model")
    return folder
