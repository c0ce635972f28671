"""Workers without models speak the whole protocol, and the stopwatch counts what it says."""

from bench.rounds_per_second import Window, figures_of
from bench.simulated_workers import SAID_TOKENS, said_at, simulated_workers
from controller.serve import running
from controller.settings import RouterSettings, Settings, WorkerEntry
from forerun.client import AsyncClient, Generation
from tests.controller.house import LetterTokenizer, run
from tests.fakes import FINGERPRINT, VOCAB_SIZE

PROMPT = tuple(range(20, 20 + SAID_TOKENS + 2))
LENGTH = 60


async def answers(*policies: str) -> list[Generation]:
    """One answer under each policy, by one controller of simulated workers."""
    async with simulated_workers(FINGERPRINT, VOCAB_SIZE, ("alpha", "beta")) as (target, *drafters):
        settings = Settings(
            listen="127.0.0.1:0",
            tokenizer="letters",
            workers=(
                WorkerEntry(role="verify", address=target),
                *(WorkerEntry(role="draft", address=address) for address in drafters),
            ),
            router=RouterSettings(scoring_share=0.0),
        )
        async with (
            running(settings, tokenizer=LetterTokenizer()) as controller,  # type: ignore[arg-type]
            AsyncClient(controller.address) as client,
        ):
            while any(not worker.serving for worker in controller.fleet.workers):
                await controller.fleet.changed.wait()
            return [
                await client.generate(
                    token_ids=PROMPT, max_new_tokens=LENGTH, policy=policy, ignore_eos=True, explain=True
                )
                for policy in policies
            ]


def test_every_policy_gives_the_text_that_the_target_says() -> None:
    said = tuple(said_at(len(PROMPT) + place, PROMPT) for place in range(LENGTH))

    for answer in run(answers("none", "static", "merged", "planner")):
        assert answer.token_ids == said
        assert answer.failovers == 0


def test_trees_are_accepted_in_part_and_rounds_foreseen_in_part() -> None:
    (answer,) = run(answers("static"))

    accepted = answer.acceptance.per_step_accepted
    assert 1.0 < sum(accepted) / len(accepted) < 3.0
    assert {bool(report.foreseen_drafters) for report in answer.rounds[1:]} == {True, False}


def test_rounds_are_held_against_the_processor_time_that_they_took() -> None:
    began = Window(rounds=10, tokens=20, processor_s=1.0, learner_s=0.5, wall_s=100.0)
    window = Window(rounds=1010, tokens=2520, processor_s=1.5, learner_s=1.0, wall_s=102.0).since(began)

    figures = {figure.name: figure for figure in figures_of({"planner": [window], "static": [window]}, seed=1)}

    assert figures["overhead.rounds_per_second"].value == 2000.0
    assert figures["overhead.rounds_per_second"].reached
    assert figures["overhead.rounds_per_second.wall"].value == 500.0
    assert figures["overhead.rounds_per_second.busy"].value == 0.25
    assert figures["overhead.rounds_per_second.learner"].value == 0.25
    assert figures["overhead.rounds_per_second.tokens"].value == 2.5
