"""What a fleet on this machine says of itself when it is ready."""

from forerun.local_fleet import introduced
from tests import fakes
from tests.controller.house import DRAFT, VERIFY, house, run


def test_a_worker_that_the_controller_refuses_is_told_with_the_reason() -> None:
    """Else the fleet is merely slower, and nobody knows why."""

    async def scenario() -> None:
        stranger = fakes.description("draft", "stranger", fingerprint="0" * 64)
        async with house(VERIFY, DRAFT, stranger) as home:
            (problem,) = await introduced(home.controller.address, {home.workers[2].address: "stranger"})

            assert problem.startswith("stranger is refused: its tokenizer")

    run(scenario())


def test_of_a_fleet_that_is_well_nothing_is_told() -> None:
    async def scenario() -> None:
        async with house() as home:
            assert await introduced(home.controller.address, {}) == ()

    run(scenario())
