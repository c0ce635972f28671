"""What a fleet does when many ask at once, or one after another for a long time."""
