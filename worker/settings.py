"""What an operator decides about one worker process."""

import ipaddress
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from speculation.errors import ConfigurationError
from speculation.exposure import require_protection

SECONDS = 1.0
MEBIBYTE = 2**20

SUFFIX = "suffix:"
"""Before the name of a target: a drafter without a model, for that target's tokens."""

Dtype = Literal["float32", "bfloat16", "float16"]
Prepack = Literal["auto", "on", "off"]
PACKABLE = frozenset({("float32", "cpu"), ("bfloat16", "cpu")})
"""Number format and kind of device of weights that can be packed."""

RANK_DEVICES = ("cpu", "cuda")
"""Of a target on several ranks; which GPU is whose follows from the rank."""

_COUNTS = (
    "threads",
    "forward_threads",
    "slots",
    "tensor_parallel",
    "remember_tenants",
    "max_length",
    "max_sessions",
    "max_calls",
)

Role = Literal["draft", "verify"]
ROLES: tuple[Role, ...] = ("draft", "verify")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Everything a worker process is told.

    Attributes:
        role: Which service it offers.
        model: Folder or hub id; suffix: and that of the target for a drafter without a model.
        name: The drafter's or target's name, as operators and requests use it.
        listen: host:port; port 0 takes a free one.
        tls_cert: PEM file of its certificate and those between it and one that controllers trust; None: plain text.
        tls_key: PEM file of the key of that, unencrypted.
        tls_client_ca: PEM file of those who sign the certificates of controllers; nobody else can call.
        insecure: Whether it may listen where other machines can reach it without these three.
        revision: Hub branch, tag or commit of the model.
        dtype: float32, bfloat16 or float16.
        device: A torch device.
        exact: Whether a target in bfloat16 on a CPU decides every token as in plain decoding, to the last bit: by our
            own kernels, which always do, where they can compute it and weights may be packed, else in a slower way.
        prepack: Whether weights on a CPU are packed for its kernels when the model is loaded: on, off, or auto if a
            trial finds that faster; for an exact target, wherever our own kernels read them. Those of a target on
            several ranks are not.
        tensor_parallel: Processes (ranks) that serve a target together, each with a part of every layer, its keys and
            values. On GPUs the device is cuda, and each takes one.
        threads: Torch threads; processes that spin on more threads than cores lose tenfold.
        forward_threads: Threads that share a forward where our own kernels compute it, on a CPU. They sleep in between,
            and all but one run only where nobody else wants the processor. None: for a target as many as `threads`, and
            two where it has two processors; one for a drafter, whose forwards are short.
        slots: Sessions whose caches fit at once; None: as many as fit into cache_gib, or 16.
        cache_gib: Most memory for their keys and values, in GiB; None: what the machine has.
        least_idle_s: How long a session keeps its slot after a call although others wait for one; None: 5 s for a
            target, as all its sessions go on, and no time for a drafter, of which many only read a prompt.
        remember: Most tokens of ended sessions' texts that a drafter without a model remembers for each salt, to draft
            from them for others of that salt; 0: none.
        remember_tenants: Most salts of which it remembers any; the least recently used is forgotten first.
        max_length: Most tokens a session may hold; the model's own limit if that is lower.
        max_sessions: Streams open at once; more are refused.
        max_calls: Calls waiting or running at once; more are answered BUSY.
        redis_url: Where to register; None registers nowhere. redis://, rediss:// or unix://.
        namespace: Which fleet to register with.
        advertise: host:port under which others reach this worker; None: what it listens on.
        heartbeat_ttl_s: Age at which a registration lapses; it is renewed three times as often.
        grace_s: How long running sessions may go on after SIGTERM.
        metrics_listen: host:port where Prometheus finds metrics; None: nothing listens.
        otlp_endpoint: URL of a collector, http:// or https://, that takes its part in traced requests, OTLP over gRPC;
            None: what OTEL_EXPORTER_OTLP_ENDPOINT says; without it nothing is traced.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    role: Role
    model: str
    name: str
    listen: str = "127.0.0.1:0"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    insecure: bool = False
    revision: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    exact: bool = False
    prepack: Prepack = "auto"
    tensor_parallel: int = 1
    threads: int = 1
    forward_threads: int | None = None
    slots: int | None = None
    cache_gib: float | None = None
    least_idle_s: float | None = None
    remember: int = 0
    remember_tenants: int = 64
    max_length: int = 1024
    max_sessions: int = 1024
    max_calls: int = 256
    redis_url: str | None = None
    namespace: str = "default"
    advertise: str | None = None
    heartbeat_ttl_s: float = 15 * SECONDS
    grace_s: float = 10 * SECONDS
    metrics_listen: str | None = None
    otlp_endpoint: str | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ConfigurationError("role", f"{self.role!r} is neither draft nor verify")
        if not self.name:
            raise ConfigurationError("name", "a worker needs a name")
        for field in _COUNTS:
            if getattr(self, field) is not None and getattr(self, field) < 1:
                raise ConfigurationError(field, f"{getattr(self, field)} is not positive")
        if self.cache_gib is not None and not 0 < self.cache_gib < math.inf:
            raise ConfigurationError("cache_gib", f"{self.cache_gib} is not a size of memory")
        for field in ("heartbeat_ttl_s", "grace_s", "least_idle_s"):
            if getattr(self, field) is not None and not getattr(self, field) >= 0:
                raise ConfigurationError(field, f"{getattr(self, field)} is not a length of time")
        if self.model in ("", SUFFIX):
            raise ConfigurationError("model", f"{self.model!r} names none; say {SUFFIX}TARGET to draft for a target")
        if self.without_model and self.role != "draft":
            raise ConfigurationError("model", f"{self.model} has no model to verify with")
        if self.remember < 0:
            raise ConfigurationError("remember", f"{self.remember} is not a number of tokens")
        if self.remember and not self.without_model:
            raise ConfigurationError("remember", f"is for drafters without a model ({SUFFIX}TARGET), not {self.model}")
        if self.exact:
            require_exact_offered(dtype=self.dtype, device=self.device)
            if self.role != "verify":
                raise ConfigurationError("exact", "is for targets; what a drafter says changes no token")
        if self.prepack not in get_args(Prepack):
            raise ConfigurationError("prepack", f"{self.prepack!r} is not one of {', '.join(get_args(Prepack))}")
        if self.prepack == "on":
            require_packable(dtype=self.dtype, device=self.device)
            if self.exact:
                raise ConfigurationError("prepack", "is not for an exact target, which packs what keeps its bits")
        if self.tensor_parallel > 1:
            self._check_ranks()
        _, port = split_address(self.listen)
        if self.redis_url is not None and self.advertise is None and _is_everywhere(self.listen):
            raise ConfigurationError("advertise", f"{self.listen} is no address that others could call; name one")
        if not 0 <= port < 2**16:
            raise ConfigurationError("listen", f"port {port} does not exist")
        if self.metrics_listen is not None:
            split_address(self.metrics_listen, field="metrics_listen")
        if self.otlp_endpoint is not None and not self.otlp_endpoint.startswith(("http://", "https://")):
            raise ConfigurationError(
                "otlp_endpoint", f"{self.otlp_endpoint!r} begins neither with http:// nor https://"
            )
        self._check_protection()

    def _check_ranks(self) -> None:
        if self.role != "verify":
            raise ConfigurationError("tensor_parallel", "is for targets; a drafter fits into one process")
        if self.exact or self.prepack == "on":
            raise ConfigurationError("exact" if self.exact else "prepack", "is not for a target on several ranks")
        if self.device not in RANK_DEVICES:
            raise ConfigurationError("device", f"{self.device!r}: for several ranks say {' or '.join(RANK_DEVICES)}")

    def _check_protection(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            missing = "tls_key" if self.tls_key is None else "tls_cert"
            raise ConfigurationError(missing, "is missing: a certificate and its key go together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ConfigurationError("tls_cert", "is missing: who asks for certificates shows one, too")
        require_protection(
            self.listen,
            # A worker knows who calls by the certificate alone: without a CA it would serve anybody, if in secret.
            protected=self.tls_client_ca is not None,
            insecure=self.insecure,
            remedy="give --tls-cert, --tls-key and --tls-client-ca, or --insecure where the whole network is trusted",
        )

    @property
    def keeps_slot_s(self) -> float:
        """Seconds that a session keeps its slot after a call although others wait for one."""
        usual_s = 5 * SECONDS if self.role == "verify" else 0.0
        return usual_s if self.least_idle_s is None else self.least_idle_s

    @property
    def sharing_threads(self) -> int:
        """Threads that share a forward."""
        usual = max(self.threads, min(os.cpu_count() or 1, 2)) if self.role == "verify" else 1
        return self.forward_threads or usual

    @property
    def without_model(self) -> bool:
        """Whether it drafts from what the text has said before."""
        return self.model.startswith(SUFFIX)


def require_exact_offered(*, dtype: str, device: str) -> None:
    """Raise ConfigurationError where a target cannot decide to the last bit as in plain decoding, or need not."""
    if dtype == "float32":
        raise ConfigurationError("exact", "is for bfloat16: in float32 speculation changes no token as it is")
    if (dtype, device) != ("bfloat16", "cpu"):
        raise ConfigurationError("exact", f"is for bfloat16 on the cpu, not for {dtype} on {device}")


def require_packable(*, dtype: str, device: str) -> None:
    """Raise ConfigurationError where weights cannot be packed once for all."""
    if (dtype, device) not in PACKABLE:
        raise ConfigurationError("prepack", f"is for float32 and bfloat16 on the cpu, not for {dtype} on {device}")


def split_address(address: str, *, field: str = "listen") -> tuple[str, int]:
    """Host and port; an IPv6 host is written in brackets.

    Raises:
        ConfigurationError: It is not host:port; `field` is the setting that says so.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise ConfigurationError(field, f"{address!r} is not host:port")
    return host, int(port)


def _is_everywhere(address: str) -> bool:
    host = split_address(address)[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
