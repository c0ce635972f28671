"""Routing policies compared by exact replay of what real models drafted."""
