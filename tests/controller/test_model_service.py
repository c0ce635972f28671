"""Versions of what the router has learnt, as operators see and change them by calls."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from controller.event_log import redis_client
from controller.model_store import ModelStore, Origin
from controller.settings import RedisSettings
from router_models.catalogue import all_policies
from router_models.model_state import ModelState
from router_models.policy import LearningPolicy
from speculation.v1 import models_pb2, models_pb2_grpc, router_pb2
from tests.controller.house import House, house, run
from tests.controller.shared import FULL
from tests.end_to_end.processes import RedisServer, redis_server


@dataclass(frozen=True)
class Versions:
    """A controller with a store of versions."""

    home: House
    store: ModelStore
    redis: RedisServer

    @property
    def stub(self) -> Any:
        return models_pb2_grpc.ModelServiceStub(self.home.channel)

    async def refusal(self, method: str, **fields: Any) -> grpc.aio.AioRpcError:
        """Why a call is refused."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(self.stub, method)(getattr(models_pb2, f"{method}Request")(**fields))
        return caught.value


@asynccontextmanager
async def versions(folder: Path) -> AsyncIterator[Versions]:
    with redis_server(folder) as redis:
        settings = RedisSettings(url=redis.url, shared_learning=False)
        async with house(policy="planner", redis=settings) as home, redis_client(redis.url) as client:
            yield Versions(home, ModelStore(client, namespace="default", make_policy=planner), redis)


def planner() -> LearningPolicy:
    policy = all_policies()["planner"]
    assert isinstance(policy, LearningPolicy)
    return policy


def learnt(rounds: int) -> ModelState:
    """What a planner has learnt from so many rounds."""
    policy = planner()
    for _ in range(rounds):
        policy.learn(FULL.context, FULL.plan, FULL.outcome)
    return policy.state()


def test_a_version_is_put_in_charge_and_taken_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with versions(tmp_path) as at:
            one = await at.store.publish(learnt(1), origin=Origin.RETRAINED, evaluation={"gain": 1.2})
            two = await at.store.publish(learnt(2), origin=Origin.RETRAINED, parent=one.version)
            await at.stub.Promote(models_pb2.PromoteRequest(version=one.version))
            await at.stub.Promote(models_pb2.PromoteRequest(version=two.version, replacing=one.version))
            listed = await at.stub.ListVersions(models_pb2.ListVersionsRequest())
            back = await at.stub.Rollback(models_pb2.RollbackRequest(replacing=two.version))
            acts = (await at.home.router.ListActs(router_pb2.ListActsRequest())).acts

            assert [entry.version for entry in listed.versions] == [two.version, one.version]
            assert (listed.policy, listed.active, listed.before) == ("planner", two.version, one.version)
            assert dict(listed.versions[1].evaluation) == {"gain": "1.2"}
            assert back.active == (await at.store.history()).active == one.version
            assert [act.act for act in acts] == ["version rolled back", "version promoted", "version promoted"]

    run(scenario())


def test_versions_are_compared_with_each_other_and_with_what_serves(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with versions(tmp_path) as at:
            one, two = [(await at.store.publish(learnt(n), origin=Origin.RETRAINED)).version for n in (1, 2)]
            await at.store.promote(one, replacing=0)
            differing = await compared(at, one, two)
            same = await compared(at, one, 0)

            assert differing.tables
            assert any(table.changed and table.largest_change > 0 for table in differing.tables)
            assert not same.tables
            assert same.equal_tables == len(differing.tables) + differing.equal_tables

    run(scenario())


async def compared(at: Versions, old: int, new: int) -> Any:
    return await at.stub.CompareVersions(models_pb2.CompareVersionsRequest(old_version=old, new_version=new))


def test_wrong_calls_say_what_is_wrong(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with versions(tmp_path) as at:
            one = (await at.store.publish(learnt(1), origin=Origin.RETRAINED)).version
            nothing = await at.refusal("Rollback", replacing=0)
            stale = await at.refusal("Promote", version=one, replacing=7)
            missing = await at.refusal("Promote", version=99)
            unknown = await at.refusal("ListVersions", policy="psychic")
            no_learner = await at.refusal("ListVersions", policy="static")
            at.redis.kill()
            gone = await at.refusal("ListVersions")

            assert nothing.code() is stale.code() is grpc.StatusCode.ABORTED
            assert missing.code() is unknown.code() is no_learner.code() is grpc.StatusCode.NOT_FOUND
            assert gone.code() is grpc.StatusCode.UNAVAILABLE
            assert "Redis" in str(gone.details())
            acts = (await at.home.router.ListActs(router_pb2.ListActsRequest())).acts
            assert not acts, "what was refused was not done"

    run(scenario())


def test_without_redis_there_are_no_versions() -> None:
    async def scenario() -> None:
        async with house() as home:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await models_pb2_grpc.ModelServiceStub(home.channel).ListVersions(models_pb2.ListVersionsRequest())

            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    run(scenario())
