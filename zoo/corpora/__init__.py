"""The six corpora the zoo learns from: two read from pinned source archives, four written by seeded generators."""
