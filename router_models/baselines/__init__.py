"""The published ways of choosing a drafter and a tree, as policies: what ours must beat, on anybody's traffic."""
