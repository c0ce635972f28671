"""What spans say of requests and rounds: OpenTelemetry's conventions for generative AI, and ours below `forerun.`.

Numbers, names and labels; nothing that a caller or a model has said. All of them are listed in docs/tracing.md.
"""

from typing import Any

from controller.account import Account
from controller.generation import FleetSession, Round
from controller.records import Outcome
from controller.request import GenerationRequest
from controller.sequence import Sequence
from controller.steering import SteeredPolicy
from speculation.tracing import Attributes, place

LARGEST_INTEGER = 2**63 - 1
"""Of an attribute; half of all seeds are larger."""

_SAMPLING = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty")


def operation(request: Any) -> str:
    """What a GenerateRequest asks for, by its name in the conventions."""
    return "chat" if request.HasField("chat") else "text_completion"


def called(request: Any, method: str, model: str) -> Attributes:
    """What a GenerateRequest says before it has been checked: only what a worker could be asked for."""
    _, service, name = method.split("/")
    sampling = request.sampling
    said = {f"gen_ai.request.{field.name}": value for field, value in sampling.ListFields() if field.name in _SAMPLING}
    return said | {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": name,
        "gen_ai.operation.name": operation(request),
        "gen_ai.provider.name": "forerun",
        "gen_ai.request.model": model,
        "forerun.request_id": request.request_id,
    }


def tell_request(request: GenerationRequest, policy: SteeredPolicy) -> None:
    """Of the request under way, once it has been admitted and read."""
    if (here := place()) is None:
        return
    here.span.set_attributes(
        {
            "gen_ai.request.max_tokens": request.max_new_tokens,
            "gen_ai.usage.input_tokens": len(request.prompt),
            "forerun.task": request.task,
            "forerun.tenant": request.tenant,
            "forerun.policy": policy.name,
        }
    )
    if request.sampling.seed <= LARGEST_INTEGER:
        here.span.set_attribute("gen_ai.request.seed", request.sampling.seed)


def tell_round(done: Round) -> None:
    """Of the round under way."""
    if (here := place()) is None:
        return
    plan, outcome = done.plan, done.outcome
    here.span.set_attributes(
        {
            "forerun.round": done.context.round,
            "forerun.drafters": plan.drafters,
            "forerun.foreseen_drafters": outcome.foreseen,
            "forerun.missing_drafters": done.missing,
            "forerun.silent_drafters": [silence.drafter for silence in outcome.silences],
            "forerun.drafted_tokens": len(outcome.tree),
            "forerun.drafted_levels": outcome.tree.depth,
            "forerun.accepted_tokens": outcome.verdict.num_accepted,
            "forerun.emitted_tokens": len(done.emitted),
            "forerun.requests_in_flight": done.context.requests_in_flight,
        }
    )


def tell_answer(outcome: Outcome, account: Account, session: FleetSession, sequence: Sequence) -> None:
    """Of the request under way, at its end."""
    if (here := place()) is None:
        return
    finish = sequence.finish_reason
    here.span.set_attributes(
        {
            "gen_ai.response.finish_reasons": [] if finish is None else [finish.value],
            "gen_ai.usage.output_tokens": account.completion_tokens,
            "forerun.outcome": outcome.name.lower(),
            "forerun.rounds": len(account.per_step_drafted),
            "forerun.drafted_tokens": sum(account.per_step_drafted),
            "forerun.accepted_tokens": sum(account.per_step_accepted),
            "forerun.time_to_first_token_ms": account.time_to_first_token_ns / 1e6,
            "forerun.failovers": session.failovers,
            "forerun.retold_tokens": session.retold_tokens,
        }
    )
