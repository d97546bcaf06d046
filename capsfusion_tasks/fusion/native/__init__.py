"""The native engine: runs LLaMA and similar models with a shared prompt prefix, continuous batching and beam search."""
