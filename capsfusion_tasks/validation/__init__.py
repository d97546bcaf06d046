"""The validate stage: scores and verdicts for fused captions, one small function a rule."""
