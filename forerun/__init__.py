"""The face of the system: the `forerun` command line and the Python client."""
