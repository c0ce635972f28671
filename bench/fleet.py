"""A fleet of its own for each bench."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from controller.settings import AdmissionSettings, RedisSettings, RouterSettings
from forerun.client import AsyncClient
from forerun.commands.profile import Profile, dtype_of, target_of
from forerun.fleet_screen import shown_fleet
from forerun.local_fleet import (
    CONTROLLER_FILE,
    EMBEDDED_REDIS,
    FREE_PORT,
    ZOO_DRAFTERS,
    FleetSettings,
    LocalFleet,
)
from worker.settings import Dtype

PATIENCE_S = 600.0

WITHOUT_SCORING = RouterSettings(scoring_share=0.0)
"""What is measured is not to share the machine with it."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A fleet to measure.

    Attributes:
        client: Of its controller.
        target_folder: The model that its verify workers run.
        drafters: Names of its drafters.
        file: Its controller's configuration; None if nobody may change it.
        fleet: Its processes; None if they are not to be looked at.
        profile: What its target costs.
        dtype: Number format of all its models.
    """

    client: AsyncClient
    target_folder: str
    drafters: tuple[str, ...]
    file: Path | None = None
    fleet: LocalFleet | None = None
    profile: Profile = "plain"
    dtype: Dtype = "float32"


@asynccontextmanager
async def bench_fleet(
    profile: Profile,
    drafters: Mapping[str, str] = ZOO_DRAFTERS,
    *,
    device: str = "cpu",
    dtype: Dtype | None = None,
    exact: bool = False,
    tensor_parallel: int = 1,
    router: RouterSettings = WITHOUT_SCORING,
    redis: RedisSettings = EMBEDDED_REDIS,
    admission: AdmissionSettings | None = None,
    verify_workers: int = 1,
    slots: int = 16,
    max_length: int = 1024,
) -> AsyncIterator[Bench]:
    """A fleet while the body runs; its logs stay behind only if it fails.

    Args:
        profile: What the target costs.
        drafters: Models of the drafters, by name.
        device: Of all models.
        dtype: Number format of all models; the one that the profile is made for, unless it is given.
        exact: Whether the target's logits are to be those of plain decoding to the last bit; bfloat16 on a CPU.
        tensor_parallel: Ranks of the target.
        router: Settings of the router.
        redis: Of its log.
        admission: Who waits, and for how long.
        verify_workers: Processes that serve the target.
        slots: Sessions each worker holds at once.
        max_length: Most tokens of a session.
    """
    folder = Path(tempfile.mkdtemp(prefix="forerun-bench-"))
    dtype = dtype or dtype_of(profile)
    settings = FleetSettings(
        target=target_of(profile),
        drafters=dict(drafters),
        verify_workers=verify_workers,
        slots=slots,
        max_length=max_length,
        listen=FREE_PORT,
        router=router,
        redis=redis,
        admission=admission or AdmissionSettings(),
        device=device,
        dtype=dtype,
        exact=exact,
        tensor_parallel=tensor_parallel,
    )
    async with shown_fleet(settings, folder) as fleet, AsyncClient(fleet.address, timeout_s=PATIENCE_S) as client:
        yield Bench(client, fleet.target_folder, tuple(drafters), folder / CONTROLLER_FILE, fleet, profile, dtype)
    shutil.rmtree(folder, ignore_errors=True)
