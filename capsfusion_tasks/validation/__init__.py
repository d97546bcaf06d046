"""The validate stage: computes scores and verdicts for fused captions. Each rule is a small function."""
