"""What the engine does on an accelerator, with models that need no download."""

import torch

from bench.figures import Figure
from bench.gpu.decoding import decoding_figures
from bench.gpu.models import Sizes, target_and_drafter
from bench.gpu.verifying import verify_figures
from speculation.errors import ConfigurationError
from worker.models import DTYPES


def measure_engine(sizes: Sizes, *, device: str, dtype: str, seed: int) -> tuple[Figure, ...]:
    """Time of a verification against its floor, and tokens a second without and with a drafter.

    Raises:
        ConfigurationError: The device is not here, or the models do not fit into its memory.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("device", f"no CUDA device is here, and {device!r} is one; try --device cpu --tiny")
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # as in a worker
    try:
        target, drafter = target_and_drafter(sizes, device, DTYPES[dtype])
        return (*verify_figures(target, sizes, seed), *decoding_figures(target, drafter, sizes, seed))
    except torch.OutOfMemoryError as error:
        raise ConfigurationError("device", f"{device} has too little free memory for these models: {error}") from error
