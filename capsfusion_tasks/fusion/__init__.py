"""The fuse stage: prompt, tokenizer, model, engine, the worker that torchrun starts, and its launcher."""
