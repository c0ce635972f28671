"""The configuration in force: followed from its file without a restart, and never replaced by a file that is wrong."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import time_ns

from controller.settings import Settings, changes, without_restart
from controller.settings_file import content_of
from speculation.errors import ConfigurationError

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 0.25
"""A change acts after two looks: a file that is still being written differs from one to the next."""


REMEMBERED_REPLACEMENTS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """One configuration took the place of another; `ts_ms` is Unix time."""

    ts_ms: int
    old: Settings
    new: Settings


class Configuration:
    """What is in force, and how it comes to follow its file.

    Attributes:
        settings: In force; an immutable value, replaced whole.
        file: Where it comes from; None: it never changes.
        address: Where the controller listens, once it does.
        problem: Why the file as it is now is not in force; empty if it is.
        waiting_for_restart: Fields that the file changes and that only a restart can.
        wanted: What was read last without a mistake; in force but for what waits for a restart.
        reloads: How often it was replaced.
        history: By what, and when, the oldest first; as far as it is remembered.
        refusals: How often it was not, because the file was wrong.
    """

    def __init__(self, settings: Settings, file: Path | None, *, apply: Callable[[Settings], None]) -> None:
        self.settings = self.wanted = settings
        self.file = file
        self.address = settings.listen
        self.problem = ""
        self.waiting_for_restart: tuple[str, ...] = ()
        self.reloads = self.refusals = 0
        self.history: deque[Replacement] = deque(maxlen=REMEMBERED_REPLACEMENTS)
        self._apply = apply
        self._seen: str | None = None
        self._reading = asyncio.Lock()

    async def run(self) -> None:
        """Follow the file, until cancelled."""
        before: str | None = None
        while self.file is not None:
            now = await asyncio.to_thread(_content_or_problem, self.file)
            if now == before != self._seen:
                await self.look()
            before = now
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def look(self) -> None:
        """Read the file now; `problem` tells if it is wrong."""
        with suppress(ConfigurationError):
            await self.reload()

    async def reload(self) -> tuple[str, ...]:
        """Read the file now; the fields that changed.

        Raises:
            ConfigurationError: There is no file, or something in it is wrong; everything stays as it was.
        """
        if self.file is None:
            raise ConfigurationError("the controller", "was started without a configuration file")
        async with self._reading:
            self._seen = await asyncio.to_thread(_content_or_problem, self.file)
            try:
                # In a thread: a long file keeps YAML busy for longer than a round may wait.
                wanted = await asyncio.to_thread(Settings.load, self.file)
            except ConfigurationError as error:
                self.problem = str(error)
                self.refusals += 1
                logger.warning("configuration refused, the one in force stays", extra={"problem": self.problem})
                raise
            return self._take(wanted)

    def _take(self, wanted: Settings) -> tuple[str, ...]:
        if wanted.listen == self.address:
            # The port that "port 0" has become.
            wanted = wanted.model_copy(update={"listen": self.settings.listen})
        self.wanted = wanted
        differing = changes(self.settings, wanted)
        changed = tuple(change.field for change in differing if not change.needs_restart)
        was_wrong, self.problem = bool(self.problem), ""
        self.waiting_for_restart = tuple(change.field for change in differing if change.needs_restart)
        if changed:
            before, self.settings = self.settings, without_restart(self.settings, wanted)
            self.history.append(Replacement(ts_ms=time_ns() // 1_000_000, old=before, new=self.settings))
            self.reloads += 1
            self._apply(self.settings)
        if differing or was_wrong:
            told = {"changed": changed, "waiting_for_restart": self.waiting_for_restart}
            logger.info("configuration read", extra=told | {"config_hash": self.settings.content_hash})
        return changed


def _content_or_problem(file: Path) -> str:
    """What the file says; if it cannot be read, why: that, too, is a state that begins and ends."""
    try:
        return content_of(file)
    except ConfigurationError as error:
        return str(error)
