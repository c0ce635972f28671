"""Drafting ahead: a foreseen tree is taken without asking, what was not foreseen is asked for, and no token changes.

A tree is only foreseen in time if the target leaves time for it. So these tests let nothing race: the target is asked
when all drafters have answered.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from controller.fleet import WorkerFleet
from controller.generation import Drafts, Round, generate
from controller.request import GenerationRequest, Pins
from controller.roster import FleetTimeouts, TokenizerIdentity
from controller.sequence import Sequence
from controller.session import RequestSession
from controller.worker_client import Role, WorkerClient
from router_models.catalogue import all_policies
from router_models.fixed import StaticPolicy
from router_models.plan import Plan
from speculation.calibration import Calibration
from speculation.foresight import MOST_OUTCOMES
from speculation.sampling import SamplingParameters
from speculation.tree import TokenTree, TreeShape, chain
from speculation.verdict import Verdict
from tests import fakes
from tests.architectures import plain_model
from tests.controller.house import (
    DRAFT,
    DRAFT_TOO,
    PROMPT,
    QUICK_FLEET,
    VERIFY,
    eventually,
    fleet_of,
    house,
    plain,
    run,
    until,
)
from tests.worker.grpc_session import save_tiny_model, worker_and_channel
from tests.worker.tiny_worker import PROMPT as WORDS
from tests.worker.tiny_worker import reference_text
from worker import batching, foresight

CHAIN = TreeShape(depth=4, branching=1, budget=4)
SHORT = TreeShape(depth=2, branching=1, budget=2)
PATIENT = replace(QUICK_FLEET, draft_timeout_s=20.0)
ALPHA = Plan(drafters=("alpha",), shape=CHAIN, explanation="")
TORN = {3: 9.0, 4: 9.0, 5: 9.0}
"""Three tokens share all chances, so that few outcomes are all there are."""
BOTH = Plan(drafters=("alpha", "beta"), shape=CHAIN, explanation="")


@dataclass
class PatientSession:
    """A request's session whose target waits until all that drafters foresee has arrived."""

    session: RequestSession

    def __getattr__(self, name: str) -> object:
        return getattr(self.session, name)

    async def read(self, drafters: Iterable[str], sequence: Sequence) -> None:
        await self.session.read(drafters, sequence)

    async def draft(self, plan: Plan, sequence: Sequence) -> Drafts:
        return await self.session.draft(plan, sequence)

    async def verify(self, tree: TokenTree, sequence: Sequence, *, run: int = 0) -> Verdict:
        await self.nobody_drafts()
        return await self.session.verify(tree, sequence, run=run)

    async def nobody_drafts(self) -> None:
        """Wait until every drafter has answered."""
        streams = [drafter.stream for drafter in self.session._drafters.values() if drafter.stream is not None]
        await asyncio.sleep(0)  # what was just begun is on its way
        await eventually(lambda: not any(stream._reading.locked() or stream._writing.locked() for stream in streams))


@dataclass
class Play:
    """One request, a round at a time."""

    session: PatientSession
    sequence: Sequence

    async def round(self, plan: Plan, *, emitted: tuple[int, ...] | None = None) -> Drafts:
        """Draft, foresee, verify; what the target says may be replaced by other tokens."""
        drafts = await self.session.draft(plan, self.sequence)
        tree = plan.combine(tuple(drafts.trees.values()))
        self.session.session.foresee(plan, tree, self.sequence)
        verdict = await self.session.verify(tree, self.sequence)
        self.sequence.extend(verdict.token_ids if emitted is None else emitted)
        return drafts


def request_for(prompt: tuple[int, ...], sampling: SamplingParameters, *, most: int, pins: Pins) -> GenerationRequest:
    return GenerationRequest(request_id="r", prompt=prompt, max_new_tokens=most, sampling=sampling, pins=pins)


@asynccontextmanager
async def playing(*started: fakes.RunningWorker, outcomes: int = 4, pins: Pins | None = None) -> AsyncIterator[Play]:
    """A request over fake workers, before its first round."""
    asked = request_for(PROMPT, SamplingParameters(seed=7), most=60, pins=pins or Pins())
    sequence = Sequence(PROMPT, max_new_tokens=60)
    async with fleet_of(*started, timeouts=PATIENT) as fleet:
        fleet.outcomes_ahead = outcomes
        await until(fleet, lambda fleet: fleet.serves and len(fleet.drafters_for(1)) == len(started) - 1)
        deadline = asyncio.get_running_loop().time() + 20
        async with fleet.session(asked, sequence, deadline=deadline) as session:
            yield Play(PatientSession(session), sequence)


def test_a_foreseen_tree_is_taken_without_asking_round_after_round() -> None:
    async def scenario() -> None:
        async with fakes.workers(VERIFY, DRAFT) as (target, drafter), playing(target, drafter) as play:
            first = await play.round(ALPHA)
            others = [await play.round(ALPHA) for _ in range(5)]

            assert first.foreseen == ()
            assert [drafts.foreseen for drafts in others] == [("alpha",)] * 5
            assert len(drafter.worker.rounds) == 1, "it was asked once"
            assert all(drafts.worker_ns == 0 and drafts.trees for drafts in others)
            assert max(drafter.worker.message_sizes[1:]) <= 5, "it was told what was new, and nothing twice"
            emitted = play.sequence.token_ids[len(PROMPT) :]
            assert emitted == plain(len(emitted))

    run(scenario())


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(replace(ALPHA, shape=replace(CHAIN, depth=3)), id="another shape"),
        pytest.param(replace(ALPHA, calibrations={"alpha": Calibration(offset=1.0)}), id="another calibration"),
        pytest.param(replace(ALPHA, drafters=("beta",)), id="another drafter"),
    ],
)
def test_another_plan_is_asked_for(plan: Plan) -> None:
    async def scenario() -> None:
        async with fakes.workers(VERIFY, DRAFT, DRAFT_TOO) as started, playing(*started) as play:
            await play.round(ALPHA)
            drafts = await play.round(plan)

            assert drafts.foreseen == ()
            assert tuple(drafts.trees) == plan.drafters

    run(scenario())


def test_an_outcome_that_was_not_foreseen_is_asked_for() -> None:
    """And the drafter, which foresaw others, builds on what really came."""

    async def scenario() -> None:
        async with fakes.workers(VERIFY, DRAFT) as (target, drafter), playing(target, drafter) as play:
            await play.round(ALPHA)
            await play.round(ALPHA, emitted=(90, 91))
            drafts = await play.round(ALPHA)

            assert drafts.foreseen == ()
            told = fakes.Language().draft(
                play.sequence.token_ids[: -len(plain(1))], CHAIN, seed=7, skill=0.7, salt=drafter.worker.salt
            )
            assert drafts.trees["alpha"].depth == told.depth
            assert max(drafter.worker.message_sizes[1:]) <= 5

    run(scenario())


def test_of_several_drafters_only_those_are_asked_that_did_not_foresee_it() -> None:
    """One that does not know how (an older release, say) is not asked to foresee, either."""

    async def scenario() -> None:
        plain_drafter = fakes.description("draft", "beta")
        plain_drafter.most_outcomes = 0
        async with fakes.workers(VERIFY, DRAFT, plain_drafter) as started, playing(*started) as play:
            for _ in range(3):
                drafts = await play.round(BOTH)

            assert drafts.foreseen == ("alpha",)
            assert tuple(drafts.trees) == BOTH.drafters
            assert [len(worker.worker.rounds) for worker in started[1:]] == [1, 3]
            assert started[2].worker.foresights == []

    run(scenario())


@pytest.mark.parametrize(
    ("outcomes", "pins"),
    [pytest.param(0, Pins(), id="the operator"), pytest.param(4, Pins(in_turn=True), id="the caller")],
)
def test_nobody_drafts_ahead_where_it_is_forbidden(outcomes: int, pins: Pins) -> None:
    async def scenario() -> None:
        async with (
            fakes.workers(VERIFY, DRAFT) as (target, drafter),
            playing(target, drafter, outcomes=outcomes, pins=pins) as play,
        ):
            drafts = [await play.round(ALPHA) for _ in range(3)]

            assert drafter.worker.foresights == []
            assert [each.foreseen for each in drafts] == [()] * 3

    run(scenario())


def test_a_drafter_is_left_in_peace_for_as_long_as_it_asks() -> None:
    """It has no processor to spare. What it was not asked to foresee is asked for as ever."""

    async def scenario() -> None:
        async with fakes.workers(VERIFY, DRAFT) as (target, drafter), playing(target, drafter) as play:
            drafter.worker.faults.rest = 2
            drafts = [await play.round(ALPHA) for _ in range(7)]

            foreseen = [("alpha",) if number in (1, 4) else () for number in range(7)]
            assert [each.foreseen for each in drafts] == foreseen
            assert drafter.worker.foresights == [0, 3, 6]
            assert all(each.trees for each in drafts)

    run(scenario())


def test_a_drafter_that_forgot_everything_meanwhile_is_told_again() -> None:
    async def scenario() -> None:
        async with fakes.workers(VERIFY, DRAFT) as (target, drafter), playing(target, drafter) as play:
            for _ in range(3):
                await play.round(ALPHA)
            drafter.worker.sessions[0].tokens.clear()

            forgotten = [await play.round(ALPHA) for _ in range(4)]

            assert all(drafts.trees and not drafts.missing for drafts in forgotten)
            assert forgotten[-1].foreseen == ("alpha",), "and goes on foreseeing"

    run(scenario())


def test_a_frozen_drafter_keeps_a_round_waiting_no_longer_than_before() -> None:
    async def scenario() -> None:
        async with fakes.workers(VERIFY, DRAFT) as (target, drafter), playing(target, drafter) as play:
            await play.round(ALPHA)
            drafter.worker.faults.frozen = True
            second = await play.session.draft(ALPHA, play.sequence)
            play.session.session.foresee(ALPHA, second.trees["alpha"], play.sequence)
            play.sequence.extend((await play.session.session.verify(second.trees["alpha"], play.sequence)).token_ids)
            play.session.session._roster.timeouts = replace(PATIENT, draft_timeout_s=0.1)

            third = await play.session.draft(ALPHA, play.sequence)
            drafter.worker.faults.frozen = False

            assert second.foreseen == ("alpha",)
            assert third.missing == ("alpha",)

    run(scenario())


def test_an_exchange_behind_nonsense_is_missing_like_any_other() -> None:
    async def scenario() -> None:
        async with fakes.workers(VERIFY, DRAFT) as (target, drafter), playing(target, drafter) as play:
            await play.round(ALPHA)
            drafter.worker.faults.confused_ahead = True
            play.session.session.foresee(ALPHA, chain([1]), play.sequence)
            await asyncio.sleep(0)

            drafts = await play.session.draft(ALPHA, play.sequence)

            assert (drafts.missing, drafts.foreseen) == (("alpha",), ())

    run(scenario())


def test_nonsense_that_was_foreseen_is_not_taken_and_its_drafter_is_left() -> None:
    async def scenario() -> None:
        async with fakes.workers(VERIFY, DRAFT) as (target, drafter), playing(target, drafter) as play:
            drafter.worker.faults.garbage_ahead = True
            await play.round(ALPHA)

            drafts = await play.session.draft(ALPHA, play.sequence)

            assert (drafts.missing, drafts.foreseen, dict(drafts.trees)) == (("alpha",), (), {})

    run(scenario())


def test_a_drafter_that_foresees_nonsense_is_left() -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT) as home:
            home.workers[1].worker.faults.garbage_ahead = True

            answer = await home.answer()

            assert answer.token_ids == plain()
            assert home.workers[1].worker.foresights
            (alpha,) = (worker for worker in home.controller.fleet.workers if worker.role is Role.DRAFT)
            await eventually(lambda: alpha.failures > 0 or not alpha.serving)

    run(scenario())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny target, and a drafter that often agrees with it."""
    target, drafter = (save_tiny_model(tmp_path_factory.mktemp(name)) for name in ("target", "drafter"))
    torch.manual_seed(0)
    model = plain_model("llama")
    noisy = {name: tensor + 0.02 * torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    model = type(model)(model.config)
    model.load_state_dict(noisy)
    model.save_pretrained(drafter)
    return target, drafter


@asynccontextmanager
async def real_fleet(models: tuple[Path, Path]) -> AsyncIterator[WorkerFleet]:
    """A real target and two real drafters, one of which has the target's own model."""
    target, drafter = models
    async with (
        worker_and_channel("verify", target) as (verify, _),
        worker_and_channel("draft", drafter, name="alpha") as (alpha, _),
        worker_and_channel("draft", target, name="beta") as (beta, _),
    ):
        client = WorkerClient(verify.address, Role.VERIFY)
        described = await client.describe(5.0)
        await client.close()
        fleet = WorkerFleet(
            TokenizerIdentity(fingerprint=described.tokenizer_fingerprint, vocab_size=described.vocab_size),
            FleetTimeouts(draft_timeout_s=20.0),
        )
        fleet.outcomes_ahead = MOST_OUTCOMES
        fleet.list_workers([(verify.address, Role.VERIFY), (alpha.address, Role.DRAFT), (beta.address, Role.DRAFT)])
        watching = asyncio.create_task(fleet.run())
        try:
            await until(fleet, lambda fleet: fleet.serves and len(fleet.drafters_for(1)) == 2)
            yield fleet
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_text_is_that_of_plain_decoding_while_drafters_draft_ahead(
    models: tuple[Path, Path], temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real models over real gRPC, under every policy; with penalties, which depend on each path."""
    monkeypatch.setattr(foresight, "LEAST_CHANCE", 0.0)
    monkeypatch.setattr(batching, "LEAST_SHARE", 0.0)
    sampling = SamplingParameters(temperature=temperature, seed=5, repetition_penalty=1.2, logit_bias=TORN)
    policies = all_policies(shape=TreeShape(depth=3, branching=2, budget=6), drafter=None)

    async def answers() -> dict[str, list[Round]]:
        said: dict[str, list[Round]] = {}
        async with real_fleet(models) as fleet:
            for name, policy in (policies | {"chain": StaticPolicy(drafter="beta", shape=SHORT)}).items():
                sequence = Sequence(WORDS, max_new_tokens=16)
                asked = request_for(WORDS, sampling, most=16, pins=Pins())
                deadline = asyncio.get_running_loop().time() + 60
                async with fleet.session(asked, sequence, deadline=deadline) as session:
                    patient = PatientSession(session)
                    rounds = generate(asked, sequence, session=patient, policy=policy)  # type: ignore[arg-type]
                    said[name] = [done async for done in rounds]
        return said

    expected = reference_text(sampling, 16)
    said = run(answers(), within_s=120)

    for name, rounds in said.items():
        assert [token for done in rounds for token in done.emitted] == expected, name
    assert sum(bool(done.outcome.foreseen) for done in said["chain"]) >= len(said["chain"]) // 2
