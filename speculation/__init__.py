"""What controller and workers agree on: trees, noise, the acceptance walk, errors and the wire."""
