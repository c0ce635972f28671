"""OpenAI-compatible HTTP in front of a controller: called from what people have. Decides nothing."""
