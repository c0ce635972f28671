"""Settings of the whole suite: the same examples on every run, no timing assertion, one torch thread."""

import os

# Before torch and NumPy are loaded, here or in a process that a test starts: they read these once.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import hypothesis
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("suite")
