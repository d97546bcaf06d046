"""The validate stage: computes scores for fused captions, and applies rules that reject or flag them."""
