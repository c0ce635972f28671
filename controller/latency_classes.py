"""Classes of requests by how long they may be kept waiting: who goes before whom, and who may say so."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from speculation.errors import NotAllowedError, UnknownNameError


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyClass:
    """Requests that are in the same hurry.

    Attributes:
        name: What requests call it.
        most_wait_s: Longest wait for a place, in seconds; who would have to wait longer is turned away at once.
        most_share: Of the places, what this class and those below it may take together.
        token_objective_ms: Milliseconds a token that its answers should take at most; None: it does not matter.
        tenants: Patterns of those who may name it (`fnmatch`, case matters); none: everybody.
    """

    name: str
    most_wait_s: float = 30.0
    most_share: float = 1.0
    token_objective_ms: float | None = None
    tenants: tuple[str, ...] = ()

    def admits(self, tenant: str) -> bool:
        """Whether a tenant may name it."""
        return not self.tenants or any(fnmatchcase(tenant, pattern) for pattern in self.tenants)


INTERACTIVE = LatencyClass(name="interactive", most_wait_s=5.0)
STANDARD = LatencyClass(name="standard", most_wait_s=30.0)
BATCH = LatencyClass(name="batch", most_wait_s=300.0, most_share=0.75)


@dataclass(frozen=True, slots=True, kw_only=True)
class Precedence:
    """Who goes first.

    Attributes:
        classes: The highest first.
        default: Class of requests that name none.
        most_waiting: Requests that may wait for a place, of all classes together.
    """

    classes: tuple[LatencyClass, ...] = (INTERACTIVE, STANDARD, BATCH)
    default: str = STANDARD.name
    most_waiting: int = 256

    def of(self, name: str, tenant: str) -> LatencyClass:
        """The class of a request; nobody need be allowed the default.

        Raises:
            UnknownNameError: There is no class of that name.
            NotAllowedError: The tenant may not name it.
        """
        wanted = name or self.default
        found = next((one for one in self.classes if one.name == wanted), None)
        if found is None:
            raise UnknownNameError("latency_class", name, [one.name for one in self.classes if one.admits(tenant)])
        if wanted != self.default and not found.admits(tenant):
            problem = f"{name} is not for this tenant"
            raise NotAllowedError("latency_class", problem, f"admission.classes.{self.classes.index(found)}")
        return found


DEFAULT_PRECEDENCE = Precedence()
