"""Learning from a finished log: what was logged, a fresh start from it, and whether that start is worth having."""
