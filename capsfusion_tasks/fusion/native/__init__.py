"""The native engine: runs LLaMA and similar models with shared prompt prefix, continuous batching and beam search."""
