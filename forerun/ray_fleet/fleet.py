"""The fleet as a whole: what is missing is started, what is no longer wanted drains, what is right stays as it is."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import grpc

from forerun.ray_fleet.host import Hosted, Hosting, WorkerHost
from forerun.ray_fleet.settings import AUTO, RayFleetSettings
from speculation.errors import ConfigurationError, ForerunError

ANSWERS_WITHIN_S = 5.0
LOOK_AGAIN_S = 0.1
STOPS_WITHIN_S = 60.0
"""What a worker may take to drain; then it is ended."""


class HostingError(ForerunError):
    """A worker does not run on the cluster; the message says why, and what would help."""

    reason = "HOSTING"


class RayFleet:
    """The workers of one namespace on the cluster that this process is connected to. They outlive the process.

    Args:
        settings: What there is to be.
    """

    def __init__(self, settings: RayFleetSettings) -> None:
        self._settings = settings
        self._place = _ray_namespace(settings.namespace)

    def update(self, *, within_s: float) -> Sequence[Hosting]:
        """Make the fleet what the settings say: workers that changed are replaced one after the other.

        Returns:
            All workers, once they can be called.

        Raises:
            HostingError: One cannot start, or the cluster has no machine for it.
        """
        wanted = self._wanted()
        for hosted in wanted.values():
            _require_room(hosted)
        for name in self._there():
            if name not in wanted:
                self._stop(name)
        until = time.monotonic() + within_s
        actors = {name: self._actor(name, hosted) for name, hosted in wanted.items()}
        return [self._as_wanted(name, hosted, actors[name], until) for name, hosted in wanted.items()]

    def stop(self) -> Sequence[str]:
        """Let all workers drain and end; their names."""
        names = self._there()
        for name in names:
            self._stop(name)
        return names

    def _wanted(self) -> Mapping[str, Hosted]:
        """The workers that there are to be, by the names of their actors."""
        settings = self._settings
        return {
            f"{name}-{place}": Hosted(
                name=name,
                words=worker.worker,
                needs=worker.needs,
                redis=settings.redis,
                namespace=settings.namespace,
                log_folder=str(settings.log_folder),
            )
            for name, worker in settings.workers.items()
            for place in range(worker.replicas)
        }

    def _there(self) -> Sequence[str]:
        import ray

        named = ray.util.list_named_actors(all_namespaces=True)
        return sorted(actor["name"] for actor in named if actor["namespace"] == self._place)

    def _as_wanted(self, name: str, hosted: Hosted, actor: Any, until: float) -> Hosting:
        """A worker that is there or about to be; another one in its place if it was told other words."""
        hosting = _answer(actor, name, hosted, until)
        if hosting.hosted == hosted:
            return hosting
        self._stop(name)
        return _answer(self._actor(name, hosted), name, hosted, until)

    def _actor(self, name: str, hosted: Hosted) -> Any:
        """The actor of that name, which is made if there is none."""
        import ray

        needs = dict(hosted.needs)
        options = {
            "name": name,
            "namespace": self._place,
            "get_if_exists": True,
            "lifetime": "detached",
            "max_restarts": -1,
            "max_task_retries": -1,
            "num_cpus": needs.pop("CPU", 0),
            "num_gpus": needs.pop("GPU", 0),
            "resources": needs,
            "scheduling_strategy": "SPREAD",
        }
        return ray.remote(WorkerHost).options(**options).remote(hosted)

    def _stop(self, name: str) -> None:
        import ray

        actor = ray.get_actor(name, namespace=self._place)
        with suppress(ray.exceptions.RayError):  # it hangs, or is gone; a timeout is one of them
            # Nobody is asked again: a worker whose machine was lost has nothing to drain.
            ray.get(actor.stop.options(max_task_retries=0).remote(), timeout=STOPS_WITHIN_S)
        ray.kill(actor)
        while name in self._there():  # until then nobody else can have the name
            time.sleep(LOOK_AGAIN_S)


@contextmanager
def connected(settings: RayFleetSettings) -> Iterator[RayFleet]:
    """The fleet, while this process is connected to the cluster.

    Raises:
        ConfigurationError: Ray is not installed here, or there is no cluster at that address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as missing:
        raise ConfigurationError("ray", "is not installed here: pip install 'forerun[ray]'") from missing
    _require_answer(settings.address)
    try:
        ray.init(
            address=settings.address,
            namespace=_ray_namespace(settings.namespace),
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        problem = f"no Ray cluster at {settings.address} ({str(error).splitlines()[0]}); start one by `ray start`"
        raise ConfigurationError("address", problem) from error
    try:
        yield RayFleet(settings)
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Raise ConfigurationError where no server of gRPC answers: Ray would wait for it without end or word."""
    if address == AUTO or os.environ.get("RAY_USE_TLS", "0") != "0":  # we do not know by which certificates
        return
    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWERS_WITHIN_S)
        except grpc.FutureTimeoutError as error:
            raise ConfigurationError("address", f"no head of a Ray cluster answers at {address}") from error


def _ray_namespace(namespace: str) -> str:
    return f"forerun-{namespace}"


def _require_room(hosted: Hosted) -> None:
    """Raise HostingError where no machine, were it free, would do: Ray would wait for one without end."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(machine.get(name, 0) >= amount for name, amount in hosted.needs.items()) for machine in machines):
        raise HostingError(f"no machine of the cluster has {_told(hosted.needs)}, as {hosted.name} needs")


def _answer(actor: Any, name: str, hosted: Hosted, until: float) -> Hosting:
    import ray

    try:
        hosting: Hosting = ray.get(actor.hosting.remote(), timeout=max(0.0, until - time.monotonic()))
    except ray.exceptions.GetTimeoutError as error:
        waits_for = f"a machine with {_told(hosted.needs)} to spare"
        raise HostingError(f"{name} does not run yet: it loads its model, or waits for {waits_for}") from error
    except ray.exceptions.RayActorError as error:
        raise HostingError(f"{name} cannot start: {_last_words(error)}") from error
    return hosting


def _told(needs: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in needs.items()) or "nothing in particular"


def _last_words(error: Exception) -> str:
    """Why an actor could not be made, without Ray's account of where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line.removeprefix("RuntimeError: ") for line in lines if line.startswith("RuntimeError: ")]
    return (told or lines)[-1]
