"""The fuse stage: prompt, tokenizer, model, engine, the worker that torchrun starts, and the launcher of torchrun."""
