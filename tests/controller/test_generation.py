"""The loop, on a scripted fleet: what is speculated changes how many rounds it takes, and nothing else."""

import asyncio
from collections.abc import Iterable, Mapping
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.generation import DraftExchange, Drafts, Round, generate
from controller.request import GenerationRequest, Pins
from controller.sequence import Sequence
from controller.steering import DecisionMode, SteeredPolicy, Steering
from router_models.catalogue import all_policies
from router_models.fixed import NonePolicy, RunsPolicy
from router_models.plan import RUN, Plan
from router_models.policy import Policy, RoundContext
from speculation.acceptance import walk
from speculation.errors import UnknownNameError
from speculation.profile import ForwardProfile
from speculation.sampling import SamplingParameters
from speculation.tree import EMPTY_TREE, TokenTree, TreeShape
from speculation.verdict import Verdict, WorkerTimings
from tests.fakes import Language

LANGUAGE = Language()
SHAPE = TreeShape(depth=5, branching=2, budget=7)


class ScriptedSession:
    """Drafters of given skill, some of which may not answer, and a target that always does."""

    def __init__(
        self,
        skills: Mapping[str, float],
        *,
        missing: frozenset[str] = frozenset(),
        silent: frozenset[str] = frozenset(),
        room: int = 10_000,
    ) -> None:
        self.prompt_surprisal: dict[str, float] = {}
        self.model_revisions: dict[str, str] = {}
        self.ineligible_drafters: tuple[str, ...] = ()
        self.drafter_profiles: dict[str, ForwardProfile] = {}
        self.target_profile: ForwardProfile | None = None
        self.failovers = self.retold_tokens = 0
        self.verify_address = "here:1"
        self.verified: list[TokenTree] = []
        self.runs: list[int] = []
        self.planned: list[Plan] = []
        self.read_by: tuple[str, ...] = ()
        self.foreseen_from: list[TokenTree] = []
        self._skills = skills
        self._missing = missing
        self._silent = silent
        self._room = room

    def offer(self, sequence: Sequence) -> tuple[str, ...]:
        return tuple(self._skills)

    def room(self, sequence: Sequence) -> int:
        return self._room - len(sequence)

    async def read(self, drafters: Iterable[str], sequence: Sequence) -> None:
        self.read_by = tuple(drafters)
        self.prompt_surprisal |= dict.fromkeys(self.read_by, 1.0)

    async def draft(self, plan: Plan, sequence: Sequence) -> Drafts:
        self.planned.append(plan)
        answering = [name for name in plan.drafters if name not in self._missing]
        trees = {
            name: LANGUAGE.draft(sequence.token_ids, plan.shape, seed=0, skill=self._skills[name], salt=len(name))
            for name in answering
        }
        trees |= dict.fromkeys(self._silent & trees.keys(), EMPTY_TREE)
        exchanges = {
            name: DraftExchange(
                address="here:2",
                elapsed_ns=1000,
                timings=WorkerTimings(queue_ns=0, compute_ns=0, total_ns=900, forwards=int(name not in self._silent)),
            )
            for name in trees
        }
        missing = tuple(name for name in plan.drafters if name in self._missing)
        return Drafts(trees=trees, missing=missing, exchanges=exchanges)

    def foresee(self, plan: Plan, tree: TokenTree, sequence: Sequence) -> None:
        self.foreseen_from.append(tree)

    async def verify(self, tree: TokenTree, sequence: Sequence, *, run: int = 0) -> Verdict:
        self.verified.append(tree)
        self.runs.append(run)
        at = [LANGUAGE.next_token([*sequence.token_ids, *tree.tokens_on_path(node)]) for node in range(len(tree))]
        steps = walk(tree, LANGUAGE.next_token(sequence.token_ids), at)
        emitted = (*(tree.token_ids[node] for node in steps.accepted), steps.extra_token)
        emitted += tuple(LANGUAGE.continuation((*sequence.token_ids, *emitted), run))
        return Verdict(accepted=steps.accepted, token_ids=emitted, logprobs=(0.0,) * len(emitted))


def rounds_of(
    session: ScriptedSession,
    policy: Policy,
    *,
    pins: Pins | None = None,
    most: int = 50,
    prompt: tuple[int, ...] = (1, 2),
) -> tuple[Sequence, list[Round]]:
    """Everything that one request did."""
    request = GenerationRequest(
        request_id="r", prompt=prompt, max_new_tokens=most, sampling=SamplingParameters(), pins=pins or Pins()
    )
    sequence = Sequence(prompt, max_new_tokens=most)

    async def collect() -> list[Round]:
        allow = policy.allow if isinstance(policy, SteeredPolicy) else lambda context: context
        rounds = generate(request, sequence, session=session, policy=policy, allow=allow)
        return [done async for done in rounds]

    return sequence, asyncio.run(collect())


@pytest.mark.parametrize("name", sorted(all_policies()))
@given(
    skills=st.dictionaries(st.sampled_from(["a", "bb", "ccc"]), st.floats(0, 1), max_size=3),
    most=st.integers(1, 40),
    prompt=st.lists(st.integers(0, 96), min_size=1, max_size=5).map(tuple),
)
def test_every_policy_gives_the_text_of_plain_decoding(
    name: str, skills: dict[str, float], most: int, prompt: tuple[int, ...]
) -> None:
    session = ScriptedSession(skills)

    sequence, _ = rounds_of(session, all_policies(shape=SHAPE)[name], most=most, prompt=prompt)

    assert sequence.token_ids[len(prompt) :] == LANGUAGE.continuation(prompt, most)


@pytest.mark.parametrize("name", sorted(all_policies()))
def test_missing_drafters_change_nothing_and_are_named(name: str) -> None:
    session = ScriptedSession({"a": 0.9, "bb": 0.9}, missing=frozenset({"bb"}))

    sequence, rounds = rounds_of(session, all_policies(shape=SHAPE)[name])

    assert sequence.token_ids[2:] == LANGUAGE.continuation((1, 2), 50)
    assert all(done.missing == tuple(set(done.plan.drafters) & {"bb"}) for done in rounds)


@pytest.mark.parametrize("name", sorted(all_policies()))
def test_who_has_nothing_to_say_costs_a_message_and_the_round_is_planned_again(name: str) -> None:
    session = ScriptedSession({"quiet": 0.9, "bb": 0.9}, silent=frozenset({"quiet"}))

    sequence, rounds = rounds_of(session, all_policies(shape=SHAPE)[name])

    assert sequence.token_ids[2:] == LANGUAGE.continuation((1, 2), 50)
    for done in rounds:
        silent = [silence.drafter for silence in done.outcome.silences]
        assert silent in ([], ["quiet"])
        assert set(done.context.drafters) == {"quiet", "bb"} - set(silent)
        assert done.plan.drafters != ("quiet",), "it would have been a plain round, by nobody's choice"


def test_silence_ends_when_nobody_is_left_to_ask() -> None:
    pins = Pins(drafters=("quiet",))
    session = ScriptedSession({"quiet": 0.9, "bb": 0.9}, silent=frozenset({"quiet"}))
    policy = Steering(all_policies(shape=SHAPE), "static").for_request(pins)

    sequence, rounds = rounds_of(session, policy, pins=pins, most=5)

    assert sequence.token_ids[2:] == LANGUAGE.continuation((1, 2), 5)
    assert [[silence.drafter for silence in done.outcome.silences] for done in rounds[:-1]] == [["quiet"]] * 4
    assert not any(done.plan.speculates for done in rounds)


def test_an_empty_tree_that_took_a_forward_is_an_answer() -> None:
    """To ask somebody else would cost what was to be saved; that a model is unsure says something about the text."""
    took_a_forward = WorkerTimings(queue_ns=0, compute_ns=5, total_ns=9, forwards=1)
    exchange = DraftExchange(address="here:2", elapsed_ns=10, timings=took_a_forward)

    assert not Drafts(trees={"a": EMPTY_TREE}, exchanges={"a": exchange}).silent
    assert not Drafts(trees={"a": EMPTY_TREE}, foreseen=("a",)).silent, "it was foreseen by a forward"
    assert not Drafts(missing=("a",)).silent
    assert not Drafts().silent


def test_who_shall_read_the_prompt_has_read_it_before_the_first_plan() -> None:
    session = ScriptedSession({"a": 0.9, "bb": 0.1})

    _, rounds = rounds_of(session, all_policies()["planner"])

    assert session.read_by == ("a", "bb")
    assert set(rounds[0].context.prompt_surprisal) == {"a", "bb"}


def test_every_round_knows_how_long_its_request_has_taken() -> None:
    """Late is who is behind the operator's objective: that needs the time since the first round."""
    request = GenerationRequest(request_id="r", prompt=(1, 2), max_new_tokens=4, sampling=SamplingParameters())
    ticks = count(step=1_000_000)

    async def contexts() -> list[RoundContext]:
        rounds = generate(
            request,
            Sequence((1, 2), max_new_tokens=4),
            session=ScriptedSession({}),
            policy=NonePolicy(),
            clock_ns=lambda: next(ticks),
        )
        return [done.context async for done in rounds]

    first, *others = asyncio.run(contexts())

    assert first.elapsed_ms == 1.0
    assert [context.elapsed_ms for context in others] == [4.0, 7.0, 10.0], "three looks at the clock a round"


def test_good_drafts_save_rounds() -> None:
    policies = all_policies(shape=SHAPE)

    _, plain = rounds_of(ScriptedSession({"a": 1.0}), policies["none"])
    _, speculated = rounds_of(ScriptedSession({"a": 1.0}), policies["static"])

    assert len(plain) == 50
    assert len(speculated) == 10, "seven nodes, two to a level: four levels and one token more each time"


def test_in_runs_an_answer_takes_a_round_for_so_many_tokens() -> None:
    session = ScriptedSession({"a": 0.9})

    sequence, rounds = rounds_of(session, RunsPolicy(), most=20)

    assert sequence.token_ids[2:] == LANGUAGE.continuation((1, 2), 20)
    assert [len(done.emitted) for done in rounds] == [1, 1 + RUN, 1 + RUN, 1]
    assert session.runs == [0, RUN, RUN, 0]
    assert len(session.foreseen_from) == session.runs.count(0), "what is drafted while the target runs on is in vain"


def test_a_run_ends_where_the_room_does() -> None:
    session = ScriptedSession({}, room=5)

    sequence, _ = rounds_of(session, RunsPolicy(), most=6)

    assert sequence.token_ids[2:] == LANGUAGE.continuation((1, 2), 6)
    assert session.runs == [0, 2, 0, 0]


def test_nothing_is_drafted_that_the_answer_cannot_use() -> None:
    session = ScriptedSession({"a": 1.0})

    rounds_of(session, all_policies(shape=SHAPE)["static"], most=4)

    assert [plan.shape.depth for plan in session.planned] == [3]


def test_a_tree_never_outgrows_the_room_that_the_target_has() -> None:
    session = ScriptedSession({"a": 1.0, "bb": 0.2}, room=20)

    sequence, rounds = rounds_of(session, all_policies(shape=SHAPE)["merged"], most=18)

    held = [2 + done.context.emitted_tokens + len(done.outcome.tree) for done in rounds]
    assert sequence.finished
    assert max(held) <= 20


@pytest.mark.parametrize(
    ("pins", "drafters", "mode"),
    [
        pytest.param(Pins(), ("a", "bb"), DecisionMode.ONLINE, id="nothing pinned"),
        pytest.param(Pins(off=True), (), DecisionMode.FORCED, id="off"),
        pytest.param(Pins(drafters=("bb",)), ("bb",), DecisionMode.FORCED, id="one drafter"),
        pytest.param(Pins(policy="static"), ("a",), DecisionMode.FORCED, id="another policy"),
        pytest.param(Pins(policy="none"), (), DecisionMode.FORCED, id="the policy of plain decoding"),
    ],
)
def test_a_caller_may_pin(pins: Pins, drafters: tuple[str, ...], mode: DecisionMode) -> None:
    policy = Steering(all_policies(shape=SHAPE), "merged").for_request(pins)

    _, rounds = rounds_of(ScriptedSession({"a": 0.5, "bb": 0.5}), policy, pins=pins)

    assert rounds[0].plan.drafters == drafters
    policy.plan(rounds[0].context)
    assert policy.mode is mode


def test_a_plan_cut_short_at_the_end_of_an_answer_has_no_propensity_to_speak_of() -> None:
    policy = Steering(all_policies(shape=SHAPE), "static").for_request(Pins())

    _, rounds = rounds_of(ScriptedSession({"a": 1.0}), policy)

    assert rounds[-1].plan.shape.depth < SHAPE.depth
    assert policy.mode is DecisionMode.FORCED


def test_a_pinned_shape_is_drafted() -> None:
    pinned = TreeShape(depth=2, branching=1, budget=2)
    pins = Pins(shape=pinned)
    session = ScriptedSession({"a": 0.5})

    rounds_of(session, Steering(all_policies(shape=SHAPE), "static").for_request(pins), pins=pins)

    assert session.planned[0].shape == pinned


def test_the_kill_switch_stops_speculation_from_the_next_round_on() -> None:
    steering = Steering(all_policies(shape=SHAPE), "static")
    policy = steering.for_request(Pins())

    _, before = rounds_of(ScriptedSession({"a": 0.5}), policy, most=4)
    assert steering.set_kill_switch(True) is False
    _, after = rounds_of(ScriptedSession({"a": 0.5}), policy, most=4)

    assert before[0].plan.speculates
    assert not any(done.plan.speculates for done in after)
    assert policy.mode is DecisionMode.KILLED


def test_a_running_request_ends_with_the_policy_it_began_with() -> None:
    steering = Steering(all_policies(), "static")
    policy = steering.for_request(Pins())

    assert steering.set_policy("none") == "static"

    assert policy.name == "static"
    assert steering.for_request(Pins()).name == "none"


def test_an_unknown_policy_is_refused_with_those_that_exist() -> None:
    steering = Steering(all_policies(), "static")

    with pytest.raises(UnknownNameError, match="merged-trie"):
        steering.for_request(Pins(policy="psychic"))
    with pytest.raises(UnknownNameError):
        steering.set_policy("psychic")
