"""Versions never change; one is in charge, and what was before it can be brought back."""

import asyncio
from itertools import count
from pathlib import Path

import pytest

from controller import model_store
from controller.model_store import Origin
from controller.shared_learning import SharedLearning
from router_models.model_state import ModelState
from speculation.cancellation import heed_cancellation
from speculation.errors import ConflictError, InvalidModelStateError, UnknownNameError
from tests.controller.house import run
from tests.controller.shared import FULL, Commons, commons, counted, stepped, times
from tests.learners import CountingPolicy


def trained(rounds: int) -> ModelState:
    """What a policy has learnt from this many rounds of a training run."""
    policy = CountingPolicy()
    for _ in range(rounds):
        policy.learn(FULL.context, FULL.plan, FULL.outcome)
    return policy.state()


TRAINED = {"r/3": 3}
"""What trained(3) has counted."""


def test_a_version_is_kept_as_it_was_published(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common:
            store = common.store()
            one = await store.publish(trained(1), origin=Origin.RETRAINED, evaluation={"tokens_per_s": 71.5})
            two = await store.publish(trained(2), origin=Origin.RETRAINED, parent=one.version)
            history = await store.history()

            assert (await store.load(one.version)).to_bytes() == trained(1).to_bytes()
            assert history.versions == (two, one)
            assert (history.active, history.before) == (0, 0)
            assert history.versions[1].evaluation == {"tokens_per_s": 71.5}
            assert history.versions[0].parent == one.version

    run(scenario())


def test_learner_and_replicas_go_on_from_a_promoted_version(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common, common.controller() as one, common.controller() as other:
            store = common.store()
            await common.write("before", range(4))
            await one.step()
            await other.step()
            await common.write("not yet folded", range(2))
            version = (await store.publish(trained(3), origin=Origin.RETRAINED)).version
            await store.promote(version, replacing=0)
            await other.step()
            assert counted(other) == TRAINED

            await common.write("after", range(5))
            for controller in (one, other):
                await stepped(controller, lambda c=controller: counted(c) == TRAINED | times(("after", range(5))))

            assert one.snapshot is not None
            assert (one.snapshot.base, one.snapshot.folded, one.snapshot.missed) == (version, 5, 0)
            assert (await store.history()).active == version

    run(scenario())


def test_a_rollback_brings_back_what_served_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common, common.controller() as one:
            store = common.store()
            await common.write("online", range(4))
            await one.step()
            good, bad = [await store.publish(trained(n), origin=Origin.RETRAINED) for n in (3, 1)]
            await store.promote(good.version, replacing=0)
            await common.write("on top", range(2))
            await stepped(one, lambda: counted(one) == TRAINED | times(("on top", range(2))))
            await store.promote(bad.version, replacing=good.version)
            await stepped(one, lambda: counted(one) == {"r/3": 1})

            kept = await store.rollback(replacing=bad.version)
            await stepped(one, lambda: counted(one) == TRAINED | times(("on top", range(2))))
            first = await store.rollback(replacing=kept)
            await stepped(one, lambda: counted(one) == times(("online", range(4))))

            history = await store.history()
            known = {version.version: version for version in history.versions}
            assert (known[kept].origin, known[kept].parent) == (Origin.ONLINE, good.version)
            assert (history.active, history.before) == (first, 0)
            with pytest.raises(ConflictError, match="nothing to go back to"):
                await store.rollback(replacing=first)

    run(scenario())


def test_of_two_who_promote_at_once_one_wins_and_the_other_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common, common.controller() as one:
            store = common.store()
            await common.write("online", range(4))
            await one.step()
            rivals = [(await store.publish(trained(n), origin=Origin.RETRAINED)).version for n in range(1, 6)]

            ends = await asyncio.gather(
                *(common.store().promote(version, replacing=0) for version in rivals), return_exceptions=True
            )

            (winner,) = [version for version, end in zip(rivals, ends, strict=True) if end is None]
            lost = [end for end in ends if end is not None]
            assert all(isinstance(end, ConflictError) for end in lost), ends
            assert f"version {winner} is in charge by now" in str(lost[0])
            history = await store.history()
            assert history.active == winner
            assert (await store.load(history.before)).labels["times"] == times(("online", range(4)))

    run(scenario())


def test_a_promotion_gets_through_while_the_learner_writes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common, common.controller() as one:
            store = common.store()
            versions = [(await store.publish(trained(3), origin=Origin.RETRAINED)).version for _ in range(6)]
            learning = asyncio.create_task(learn_on(common, one))
            active = 0
            for version in versions:
                await store.promote(version, replacing=active)
                active = version
            learning.cancel()
            await asyncio.gather(learning, return_exceptions=True)

            await common.write("after", range(3))
            await stepped(one, lambda: counted(one).keys() >= times(("after", range(3))).keys())
            assert max(counted(one).values()) == 3, "the three of the training run; all else once"
            assert one.snapshot is not None
            assert one.snapshot.base == versions[-1]

    run(scenario())


async def learn_on(common: Commons, controller: SharedLearning) -> None:
    """A controller learns from rounds that keep coming."""
    for number in count():
        await common.write("meanwhile", (number,))
        await controller.step()
        heed_cancellation()


def test_what_no_policy_here_can_take_up_is_not_put_in_charge(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common:
            store = common.store()
            with pytest.raises(InvalidModelStateError):
                await store.publish(ModelState(policy="another"), origin=Origin.RETRAINED)
            empty = await store.publish(ModelState(policy="counting"), origin=Origin.RETRAINED)
            damaged = await store.publish(trained(2), origin=Origin.RETRAINED)
            await common.redis.hset(f"forerun:ns:model:{damaged.version}", "state", trained(9).to_bytes())

            for version in (empty.version, damaged.version):
                with pytest.raises(InvalidModelStateError):
                    await store.promote(version, replacing=0)
            with pytest.raises(UnknownNameError):
                await store.promote(77, replacing=0)
            assert (await store.history()).active == 0

    run(scenario())


def test_the_oldest_versions_go_but_never_the_active_one_nor_the_way_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_store, "MOST_VERSIONS", 5)

    async def scenario() -> None:
        async with commons(tmp_path) as common:
            store = common.store()
            first = (await store.publish(trained(1), origin=Origin.RETRAINED)).version
            second = (await store.publish(trained(2), origin=Origin.RETRAINED)).version
            await store.promote(first, replacing=0)
            await store.promote(second, replacing=first)
            others = [(await store.publish(trained(n), origin=Origin.RETRAINED)).version for n in range(3, 9)]

            history = await store.history()

            assert [version.version for version in history.versions] == [*reversed(others[-3:]), second, first]
            assert (history.active, history.before) == (second, first)
            keys = [key async for key in common.redis.scan_iter("forerun:ns:model:*")]
            assert len(keys) == 5 + 1, "five versions and the counter"
            with pytest.raises(UnknownNameError):
                await store.load(others[0])

    run(scenario())
