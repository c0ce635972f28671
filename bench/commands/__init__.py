"""The commands of `forerun bench`."""
