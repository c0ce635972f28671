"""Learning and choosing: which drafters and which tree for each request. Knows no network, clock or I/O."""
