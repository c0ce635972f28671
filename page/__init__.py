"""The operator's page: a controller seen and steered in a browser."""
