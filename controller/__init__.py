"""Decides: the speculative loop, the fleet, the generation service and the decision log. Holds no model weights."""
