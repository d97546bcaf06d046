"""The native engine: a LLaMA with one prefix for all rows, slots that refill, and exact beam search."""
