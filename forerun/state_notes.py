"""What the state of a controller, and of its log, says about speed without being measured: said beside the findings."""

from collections.abc import Iterator, Mapping

from forerun.client import RouterMode, RouterView, WorkerHealth
from forerun.decision_log import Window

LONG_SHARE, LONG_MS = 0.05, 20.0
"""Of requests' time before they have a place: below either nothing is told. Reading a request takes some of it."""

_MODES: Mapping[RouterMode, str] = {
    RouterMode.OFF: "router.mode is off: nothing is speculated where no rule says otherwise",
    RouterMode.OBSERVE: "router.mode is observe: plans are logged, and plain decoding is served",
    RouterMode.FROZEN: "router.mode is frozen: the router follows neither its traffic nor its drafters",
}


def notes_on(view: RouterView) -> Iterator[str]:
    """What an operator should know of a controller before he believes its figures."""
    if view.kill_switch:
        released = "set router.kill_switch to false" if view.kill_switch_in_config else "`forerun router kill off`"
        yield f"the kill switch is engaged: nothing is speculated; release it with {released}"
    if view.mode in _MODES:
        yield _MODES[view.mode]
    for worker in view.workers:
        if worker.health is not WorkerHealth.SERVING:
            name = worker.name or worker.address
            yield f"{worker.role or 'worker'} {name} at {worker.address} is {worker.health.value}: {worker.problem}"
    if not view.log.url:
        yield "there is no decision log: set redis.url, so that there is something to judge by"
    elif not view.log.connected:
        yield f"the controller cannot reach its log at {view.log.url}; what it writes waits, and is dropped in the end"
    if view.log.dropped:
        yield f"{view.log.dropped} of the log's records were dropped: raise redis.most_records_waiting, or mend Redis"
    if view.config.problem:
        yield f"the configuration file is not in force: {view.config.problem}"


def notes_in(window: Window) -> Iterator[str]:
    """The same of the log itself."""
    if window.cut:
        yield f"there are more rounds in the log: only the latest {len(window.rows)} were looked at"
    if killed := window.set_aside.get("killed"):
        yield f"{killed} rounds were decoded plainly because the kill switch was engaged; they are not judged"
    if observed := window.set_aside.get("observed"):
        yield f"{observed} rounds were only observed (mode: observe); they are not judged"
    if window.unreadable:
        yield f"{window.unreadable} rounds were logged by a release that this one cannot read"
    if window.dropped:
        yield f"{window.dropped} records never reached the log: figures are those of the rest"
    if window.failed_requests:
        yield f"{window.failed_requests} of {window.requests} requests were ended by a failure or their deadline"
    if window.waited_ms > max(LONG_SHARE * window.lasted_ms, LONG_MS):
        yield (
            f"requests waited {window.waited_ms:.0f} ms of their {window.lasted_ms:.0f} ms for a place (means): more "
            "verify workers or slots; docs/overload.md says who waits for whom"
        )
