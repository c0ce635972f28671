"""The embedded models: one small target, five drafters, and everything needed to make them again."""
