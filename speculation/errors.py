"""Every error the system raises on purpose, named for what its receiver can do.

ForerunError
├── InvalidRequestError         a field of the request is wrong: correct it and call again
│   ├── InvalidTreeError        the tree cannot be read parents first, or is too large: draft another one
│   ├── PromptTooLongError      prompt and answer do not fit: shorten one of them
│   └── NotAllowedError         the operator does not allow what the field asks for: leave it out, or ask him
├── UnauthenticatedError        nobody knows who calls: bring a token that is valid now
├── AccessDeniedError           the caller's token does not allow the call, or that tenant: use another one
├── UnknownNameError            no drafter, policy, request or worker has that name: pick a listed one
├── ConfigurationError          a configuration cannot be used: correct the named field and start again
├── ModelError                  a model cannot be served here: choose another one
│   ├── ModelNotFoundError      nothing at that folder or hub id: correct the name, or fetch the model
│   ├── CorruptModelError       files are missing or damaged: fetch the model again
│   └── UnservableModelError    the architecture cannot be speculated on exactly: choose another one
├── InvalidModelStateError      what a router is said to have learnt cannot be read: keep the one in use
├── InvalidLogError             a log contradicts itself: export it again, and learn nothing from this one
├── ConflictError               somebody else was faster: look at what is there now, and decide again
├── IncompatibleWorkerError     the worker does not belong to this fleet: start it with the fleet's tokenizer
├── CapacityError               everything is in use: try again later
│   └── QuotaError              the tenant has used what it may: try again after retry_after_s
├── WorkerUnavailableError      no worker answered in time: try again, perhaps elsewhere
├── DrainingError               the process is shutting down: call another one
└── FeatureUnavailableError     this deployment does not offer the call: do without, or ask its operator
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar


class ForerunError(Exception):
    """Base of every deliberate error.

    Attributes:
        metadata: Travels to the caller as ErrorInfo.
        retry_after_s: After how many seconds the same call may do better, as RetryInfo; None: nobody knows.
    """

    reason: ClassVar[str] = "FORERUN"

    def __init__(self, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.metadata: dict[str, str] = dict(metadata or {})
        self.retry_after_s: float | None = None


class InvalidRequestError(ForerunError):
    """A field of the request is wrong."""

    reason = "INVALID_REQUEST"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}", {"field": field})

    @property
    def field(self) -> str:
        """The field that is wrong."""
        return self.metadata["field"]


class InvalidTreeError(InvalidRequestError):
    """The tree cannot be read parents first, or is larger than the limits allow."""

    reason = "INVALID_TREE"

    def __init__(self, problem: str) -> None:
        super().__init__("tree", problem)


class PromptTooLongError(InvalidRequestError):
    """Prompt and answer do not fit into the model's context."""

    reason = "PROMPT_TOO_LONG"

    def __init__(self, prompt_tokens: int, max_new_tokens: int, context_length: int, *, at_least: bool = False) -> None:
        """
        Args:
            prompt_tokens: Of the prompt.
            max_new_tokens: Of the answer.
            context_length: Of the model.
            at_least: Whether the prompt may have more: it was not read.
        """
        super().__init__(
            "prompt",
            f"{'at least ' * at_least}{prompt_tokens} prompt tokens and {max_new_tokens} new tokens do not fit into "
            f"the {context_length} tokens of context; shorten the prompt or lower max_new_tokens",
        )
        self.metadata["context_length"] = str(context_length)


class NotAllowedError(InvalidRequestError):
    """The operator's configuration does not allow what a field asks for; `rule` is the part of it that says so."""

    reason = "NOT_ALLOWED"

    def __init__(self, field: str, problem: str, rule: str) -> None:
        super().__init__(field, f"{problem}; so says {rule} in the controller's configuration")
        self.metadata["rule"] = rule


class UnauthenticatedError(ForerunError):
    """The call brought no token that is valid now. Which of them it was is not said: that would help to guess one."""

    reason = "UNAUTHENTICATED"


class AccessDeniedError(ForerunError):
    """The token is valid, and does not allow what was asked for."""

    reason = "ACCESS_DENIED"


class UnknownNameError(ForerunError):
    """Nothing of that kind has that name."""

    reason = "UNKNOWN_NAME"

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        listed = ", ".join(sorted(known)) or "none"
        super().__init__(f"no {kind} is called {name!r}; known: {listed}", {"kind": kind, "name": name})


class ConfigurationError(ForerunError):
    """A configuration cannot be used; `where` names the file, line or field."""

    reason = "CONFIGURATION"

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}", {"where": where})


class ModelError(ForerunError):
    """A model cannot be served here."""

    reason = "MODEL"

    def __init__(self, model: str, problem: str) -> None:
        super().__init__(f"{model}: {problem}", {"model": model})


class ModelNotFoundError(ModelError):
    """Neither a folder nor a reachable hub id."""

    reason = "MODEL_NOT_FOUND"


class CorruptModelError(ModelError):
    """The model's files are missing or damaged."""

    reason = "CORRUPT_MODEL"


class UnservableModelError(ModelError):
    """The architecture cannot be speculated on exactly by this engine."""

    reason = "UNSERVABLE_MODEL"


class InvalidModelStateError(ForerunError):
    """What a router is said to have learnt cannot be read, or was learnt for another policy."""

    reason = "INVALID_MODEL_STATE"


class InvalidLogError(ForerunError):
    """An exported log cannot be trusted; `place` is the file, row and column that says so."""

    reason = "INVALID_LOG"

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place}: {problem}", {"place": place})


class ConflictError(ForerunError):
    """What was to be changed is no longer what the caller saw."""

    reason = "CONFLICT"


class IncompatibleWorkerError(ForerunError):
    """The worker's tokenizer or role does not fit the fleet it wants to join."""

    reason = "INCOMPATIBLE_WORKER"


class CapacityError(ForerunError):
    """Every slot or queue place is in use."""

    reason = "CAPACITY"


class QuotaError(CapacityError):
    """A tenant has used what the operator grants it; `limit` is the field of the quota that says so."""

    reason = "QUOTA"

    def __init__(self, tenant: str, limit: str, granted: int, retry_after_s: float) -> None:
        super().__init__(
            f"tenant {tenant!r} has used its {limit} of {granted}; call again in {retry_after_s:.3g} s",
            {"field": "tenant", "tenant": tenant, "limit": limit, "granted": str(granted)},
        )
        self.retry_after_s = retry_after_s


class WorkerUnavailableError(ForerunError):
    """No worker of the needed role answered in time."""

    reason = "WORKER_UNAVAILABLE"


class DrainingError(ForerunError):
    """The process finishes what it has and takes nothing new."""

    reason = "DRAINING"


class FeatureUnavailableError(ForerunError):
    """This deployment does not offer the call."""

    reason = "FEATURE_UNAVAILABLE"
