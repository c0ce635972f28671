"""Runs of benches as files: their form, their comparison, and a page of them."""
