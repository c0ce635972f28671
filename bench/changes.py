"""An operator at work while requests run: models promoted and taken back, the configuration changed, and got wrong.

Nothing of it may change a token or cost a request. Whatever is done is waited for until the controller says that it
obeys, and a version until answers come that were decided by it, so that what is counted has taken effect.
"""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable, Mapping, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from redis.asyncio import Redis

from bench.figures import Figure, count
from controller.log_export import export_log
from controller.model_store import ModelStore, Origin
from controller.settings import Settings
from controller.shared_learning import learners
from forerun import retraining
from forerun.client import ConfigView, RouterClient, RouterView
from forerun.commands.redis_place import connected, place_of, policy_named
from router_models.catalogue import all_policies
from router_models.model_state import ModelState
from speculation.errors import ConfigurationError

LEARNERS = tuple(learners(all_policies()))
"""Policies of which there are versions."""

CHANGES: tuple[Mapping[str, Any], ...] = (
    {"exploration": 0.25},
    {"outcomes_ahead": 0},
    {"mode": "frozen"},
    {"mode": "observe"},
    {"kill_switch": True},
)
"""What the operator changes in the file's `router` section, one after the other."""

WRONG: Mapping[str, Any] = {"exploration": 7}
"""Not to be obeyed."""

HOLD_OUT = 0.2
SEEN_WITHIN_S = 60.0
LOOK_AGAIN_S = 0.05


@dataclass(slots=True)
class Deeds:
    """What an operator did and saw obeyed."""

    policies: int = 0
    retrained: int = 0
    promotions: int = 0
    rollbacks: int = 0
    reloads: int = 0
    refusals: int = 0

    def figures(self) -> tuple[Figure, ...]:
        """The counts."""
        return (
            count("exactness.policies_in_charge", self.policies, "policies"),
            count("exactness.retrained_models", self.retrained, "models"),
            count("exactness.promotions", self.promotions, "promotions"),
            count("exactness.rollbacks", self.rollbacks, "rollbacks"),
            count("exactness.reloads", self.reloads, "reloads"),
            count("exactness.refused_configurations", self.refusals, "files"),
        )


class Operator:
    """Works on a controller by its configuration file, its Redis and its router service.

    Attributes:
        deeds: What was done so far.

    Args:
        file: The configuration.
        redis: Where the versions are.
        router: Of the controller.
        namespace: Of the fleet.
        decided_by: Versions by which answers were decided, as they come in.
    """

    def __init__(self, file: Path, redis: Redis, router: RouterClient, *, namespace: str, decided_by: Set[str]) -> None:
        self.deeds = Deeds()
        self._decided_by = decided_by
        self._file, self._as_found = file, file.read_text()
        self._redis, self._namespace, self._router = redis, namespace, router
        self._retrained: dict[str, ModelState] = {}
        self._changes = itertools.cycle(CHANGES)

    async def retrain(self) -> None:
        """Learn a model for every policy that learns, from the log so far.

        It need not win: an operator may put in charge what he likes, and here worse ones are as good.

        Raises:
            InvalidLogError: The log holds too little to learn from.
        """
        with TemporaryDirectory(prefix="forerun-bench-") as folder:
            log = Path(folder) / "log"
            await export_log(self._redis, self._namespace, log)
            history = await asyncio.to_thread(retraining.read, log)
        cut = retraining.split(history, HOLD_OUT)
        for policy in LEARNERS:
            trained = await asyncio.to_thread(retraining.trained, partial(policy_named, policy), cut)
            assert trained.state is not None
            self._retrained[policy] = trained.state
            self.deeds.retrained += 1

    async def put_in_charge(self, policy: str) -> None:
        """Let a policy decide where requests name none, and all controllers share what it learns."""
        await asyncio.to_thread(self._router.set_policy, policy)
        await self._seen(
            lambda view: view.learning.policy == policy and view.learning.follows and view.learning.written_ms > 0,
            f"that the learning of {policy} is shared",
        )
        self.deeds.policies += 1

    async def work(self, policy: str, *, decides: bool, until: asyncio.Event) -> None:
        """Turn after turn with a policy in charge, at least one; `decides`: answers are asked of it meanwhile."""
        await self._turn(policy, decides=decides)
        while not until.is_set():
            await self._turn(policy, decides=decides)

    async def _turn(self, policy: str, *, decides: bool) -> None:
        """Promote the retrained model, change the configuration, get it wrong, and take back both."""
        store = ModelStore(self._redis, namespace=self._namespace, make_policy=partial(policy_named, policy))
        model = await store.publish(self._retrained[policy], origin=Origin.RETRAINED)
        await store.promote(model.version, replacing=(await store.history()).active)
        await self._in_force(model.version, decides=decides)
        self.deeds.promotions += 1
        await self._change(next(self._changes))
        await self._get_it_wrong()
        before = await store.rollback(replacing=model.version)
        await self._in_force(before, decides=False)
        await self._change({})
        await self._in_force(before, decides=decides)
        self.deeds.rollbacks += 1

    async def _in_force(self, version: int, *, decides: bool) -> None:
        """Wait until the controller serves by a version; `decides`: and an answer came that was decided by it."""
        await self._seen(
            lambda view: view.learning.base_version == version and (not decides or str(version) in self._decided_by),
            f"that version {version} is in force",
        )

    async def _change(self, router: Mapping[str, Any]) -> None:
        """Have the controller obey the file as it was found, but for these settings of its router."""
        before = await self._config()
        self._write(router)
        _, after = await asyncio.to_thread(self._router.reload_config)
        if after.hash == before.hash or after.problem:
            raise RuntimeError(f"a changed configuration is not in force: {after}")
        self.deeds.reloads += 1

    async def _get_it_wrong(self) -> None:
        """Leave the controller a file that it must refuse."""
        before = await self._config()
        self._write(WRONG)
        try:
            await asyncio.to_thread(self._router.reload_config)
        except ConfigurationError as error:
            after = await self._config()
            if after.hash != before.hash or "exploration" not in str(error):
                raise RuntimeError(f"a wrong configuration was not refused as it should be: {error}") from error
            self.deeds.refusals += 1
            return
        raise RuntimeError("a wrong configuration was taken for a good one")

    def take_back(self) -> None:
        """Leave the file as it was found."""
        self._write({})

    def _write(self, router: Mapping[str, Any]) -> None:
        """The controller follows the file by itself, too: it may never see half of one."""
        content = yaml.safe_load(self._as_found)
        content["router"] = {**content["router"], **router}
        beside = self._file.with_suffix(".next")
        beside.write_text(yaml.safe_dump(content, sort_keys=False))
        os.replace(beside, self._file)

    async def _config(self) -> ConfigView:
        return (await asyncio.to_thread(self._router.show)).config

    async def _seen(self, holds: Callable[[RouterView], bool], what: str) -> None:
        """Wait until the controller shows something.

        Raises:
            RuntimeError: It did not in time.
        """
        try:
            async with asyncio.timeout(SEEN_WITHIN_S):
                while not holds(await asyncio.to_thread(self._router.show)):  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_AGAIN_S)
        except TimeoutError as error:
            raise RuntimeError(f"the controller did not show within {SEEN_WITHIN_S:g} s {what}") from error


@asynccontextmanager
async def operator_of(file: Path, decided_by: Set[str]) -> AsyncIterator[Operator]:
    """An operator of the controller that was started with a file; it is left as it was found.

    Args:
        file: Its configuration.
        decided_by: Versions by which answers were decided, as they come in.

    Raises:
        ConfigurationError: Without Redis there are no versions to be put in charge.
    """
    place = place_of(None, "", file)
    async with connected(place) as redis:
        with RouterClient(Settings.load(file).listen) as router:
            in_charge = router.show().policy
            operator = Operator(file, redis, router, namespace=place.namespace, decided_by=decided_by)
            try:
                yield operator
            finally:
                operator.take_back()
                router.set_policy(in_charge)
