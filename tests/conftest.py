"""Settings of the whole suite: the same examples on every run, no timing assertion, one torch thread."""

import logging
import os
from collections.abc import Iterator

# Before torch and NumPy are loaded, here or in a process that a test starts: they read these once.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _logs_end_with_their_test() -> Iterator[None]:
    """A program that ran in the test's own process leaves a log behind that writes to a stderr that is gone."""
    before = set(logging.getLogger().handlers)
    yield
    for handler in set(logging.getLogger().handlers) - before:
        logging.getLogger().removeHandler(handler)
