"""The Python client: what a backend service imports to call a controller. Needs neither torch nor transformers."""

from forerun.client.calls import AsyncClient, AsyncStream, Client, DeadlineExceededError, Retry, Stream
from forerun.client.generation import (
    AcceptanceRecord,
    Decision,
    Delta,
    FinishReason,
    Generation,
    RequestTimings,
    RoundReport,
    TokenLogprobs,
    Usage,
)
from forerun.client.messages import GenerateOptions

__all__ = [
    "AcceptanceRecord",
    "AsyncClient",
    "AsyncStream",
    "Client",
    "DeadlineExceededError",
    "Decision",
    "Delta",
    "FinishReason",
    "GenerateOptions",
    "Generation",
    "RequestTimings",
    "Retry",
    "RoundReport",
    "Stream",
    "TokenLogprobs",
    "Usage",
]
