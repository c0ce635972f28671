"""Computes: engine, drafters, batching, and the draft and verify services. Chooses nothing."""
