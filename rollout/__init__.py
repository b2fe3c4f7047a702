"""Staged rollout with shadow evaluation for early-exit LLM inference."""
