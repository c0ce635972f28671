"""Generated from protos/speculation/v1 by `make protos`; never edited."""
