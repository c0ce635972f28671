"""Hostile requests by the thousand, against a whole fleet and every door of it: what must never happen does not."""
