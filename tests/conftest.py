"""Settings of the whole suite: the same examples on every run, no timing assertion, one torch thread."""

import os

import hypothesis
import torch

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("suite")
