"""The Python client: what a backend service imports to call a controller. Needs neither torch nor transformers."""

from forerun.client.calls import AsyncClient, AsyncStream, Client, DeadlineExceededError, Stream
from forerun.client.generation import (
    AcceptanceRecord,
    Decision,
    Delta,
    FinishReason,
    Generation,
    RequestTimings,
    RoundReport,
    ServedModel,
    TokenLogprob,
    TokenLogprobs,
    Usage,
)
from forerun.client.messages import GenerateOptions
from forerun.client.retries import Retry
from forerun.client.router import (
    ArmView,
    ConfigView,
    LearningView,
    LogView,
    RouterClient,
    RouterMode,
    RouterView,
    ScoringView,
    WorkerHealth,
    WorkerView,
)

__all__ = [
    "AcceptanceRecord",
    "ArmView",
    "AsyncClient",
    "AsyncStream",
    "Client",
    "ConfigView",
    "DeadlineExceededError",
    "Decision",
    "Delta",
    "FinishReason",
    "GenerateOptions",
    "Generation",
    "LearningView",
    "LogView",
    "RequestTimings",
    "Retry",
    "RoundReport",
    "RouterClient",
    "RouterMode",
    "RouterView",
    "ScoringView",
    "ServedModel",
    "Stream",
    "TokenLogprob",
    "TokenLogprobs",
    "Usage",
    "WorkerHealth",
    "WorkerView",
]
