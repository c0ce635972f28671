"""What an operator decides about one controller: a YAML file, checked to the line (`docs/configuration.md`)."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from controller.latency_classes import BATCH, INTERACTIVE, STANDARD, LatencyClass, Precedence
from controller.quotas import Quota
from controller.settings_file import ADDRESS, LABEL, content_of, parsed
from controller.terms import DraftPin, Mode, Orders, Rule, Terms
from router_models.catalogue import all_policies
from router_models.plan import CHAIN_OF_4, RUN
from speculation.foresight import MOST_OUTCOMES
from speculation.tree import MAX_BRANCHING, MAX_DEPTH, MAX_NODES, TreeShape
from speculation.verdict import MAX_RUN

Address = Annotated[str, Field(pattern=ADDRESS)]
Label = Annotated[str, Field(pattern=LABEL)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Nodes = Annotated[int, Field(ge=1, le=MAX_NODES)]
Depth = Annotated[int, Field(ge=1, le=MAX_DEPTH)]
RunLength = Annotated[int, Field(ge=0, le=MAX_RUN)]
DrafterName = Annotated[str, Field(min_length=1)]

EMBEDDED = "embedded://"

NEEDS_RESTART = "x-needs-restart"
"""Marks fields in the JSON Schema, too."""


def _until_restart(default: Any = ...) -> Any:
    """A field whose new value waits for the next start."""
    return Field(default, json_schema_extra={NEEDS_RESTART: True})


class Section(BaseModel):
    """A part of the file; a field it does not have is an error, not a silent wish."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, use_attribute_docstrings=True)


SomeSection = TypeVar("SomeSection", bound=Section)


class WorkerEntry(Section):
    """A worker that is always part of the fleet."""

    role: Literal["draft", "verify"]
    """What it does."""
    address: Address
    """host:port."""


class RedisSettings(Section):
    """Where decisions are logged and workers announce themselves."""

    url: str
    """redis://, rediss://, unix:// or embedded://PATH, which starts one for this host alone."""
    namespace: Label = "default"
    """Shared by the workers and controllers of one fleet."""
    log_entries: Count | None = None
    """About how many entries each stream of the log keeps. Absent: 1,000,000, or 200,000 in an embedded Redis, which
    has half a gigabyte; should they not fit, the older half of the log goes."""
    most_records_waiting: Count = 10_000
    """Records kept while Redis is away; more are dropped and counted."""
    shared_learning: bool = True
    """Whether the controllers of the namespace learn as one; if not, each learns from its own requests, and forgets it
    all when it ends."""

    @property
    def embedded(self) -> bool:
        """Whether the server is one of our own, which nobody else fills."""
        return self.url.startswith(EMBEDDED)

    @property
    def kept_entries(self) -> int:
        """About how many entries each stream of the log keeps, said or not."""
        return self.log_entries or (200_000 if self.embedded else 1_000_000)

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        if not url.startswith(("redis://", "rediss://", "unix://", EMBEDDED)):
            raise ValueError("must begin with redis://, rediss://, unix:// or embedded://")
        return url


class ShapeSettings(Section):
    """The form of a drafted tree."""

    depth: Depth = CHAIN_OF_4.depth
    """Levels."""
    branching: Annotated[int, Field(ge=1, le=MAX_BRANCHING)] = CHAIN_OF_4.branching
    """Nodes expanded a level, and children of each; 1 gives a chain."""
    budget: Nodes = CHAIN_OF_4.budget
    """Most nodes."""
    least_confidence: Share = CHAIN_OF_4.least_confidence
    """The tree ends where its drafter gives a path less than this chance."""

    @property
    def shape(self) -> TreeShape:
        """As a value."""
        return TreeShape(**self.model_dump())


class PinSettings(Section):
    """One drafter and one tree."""

    drafter: DrafterName
    """Its name."""
    shape: ShapeSettings
    """The tree it drafts."""


def _in_the_catalogue(name: str | None) -> str | None:
    if name is not None and name not in (known := all_policies()):
        raise ValueError(f"no policy is called {name!r}; known: {', '.join(sorted(known))}")
    return name


def _mode_of(value: Any) -> Any:
    """YAML 1.1 reads a bare `off` as false."""
    return Mode.OFF.value if value is False else value


class RuleSettings(Section):
    """What holds for requests with certain labels. The labels are the caller's word, but for the tenant where there are
    tokens: a limit, not an access control."""

    task: str | None = None
    """Pattern of the request's task: * stands for anything, ? for one character, case matters. Absent: any task."""
    tenant: str | None = None
    """Pattern of its tenant, likewise. A rule with neither is about every request, and so must be the last."""
    policy: str | None = None
    """Who decides where the request names nobody. Absent: the policy in charge."""
    mode: Mode | None = None
    """How much say the policy has. Absent: as in router.mode."""
    max_nodes: Nodes = MAX_NODES
    """Most nodes verified in a round."""
    max_depth: Depth = MAX_DEPTH
    """Most levels drafted in a round."""
    max_run: RunLength | None = None
    """Most tokens that the target decodes by itself. Absent: as in router.max_run."""
    allowed_drafters: tuple[DrafterName, ...] = ()
    """Only these drafters. Empty: any."""
    denied_drafters: tuple[DrafterName, ...] = ()
    """Not these drafters."""
    allowed_shapes: tuple[ShapeSettings, ...] = ()
    """Only these trees: depth and branching to the letter, the budget at most. Empty: any."""
    pin: PinSettings | None = None
    """One drafter and one tree; plain decoding stays the policy's to choose (`policy: static` never chooses it)."""
    exploration: Share | None = None
    """Share of its exploration that the policy is allowed. Absent: as in router.exploration."""
    scoring_share: Share | None = None
    """Share of their answers that idle drafters score, of those that the rule allows. Absent: as in
    router.scoring_share."""
    latency_objective_ms: Milliseconds | None = None
    """Milliseconds a token that these requests should take at most. Absent: as in router.latency_objective_ms."""

    _policy_exists = field_validator("policy")(_in_the_catalogue)
    _mode_is_no_boolean = field_validator("mode", mode="before")(_mode_of)

    @field_validator("denied_drafters")
    @classmethod
    def _not_allowed_too(cls, denied: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if both := sorted(set(denied) & set(info.data.get("allowed_drafters", ()))):
            raise ValueError(f"{', '.join(both)} is among allowed_drafters, too")
        return denied

    @field_validator("allowed_shapes")
    @classmethod
    def _shapes_within_limits(
        cls, shapes: tuple[ShapeSettings, ...], info: ValidationInfo
    ) -> tuple[ShapeSettings, ...]:
        terms = _terms(info.data)
        for number, one in enumerate(shapes):
            if problem := terms.problem_of(one.shape):
                raise ValueError(f"the rule's own limits forbid number {number}: {problem}")
        return shapes

    @field_validator("pin")
    @classmethod
    def _pin_within_limits(cls, pin: PinSettings | None, info: ValidationInfo) -> PinSettings | None:
        terms = _terms(info.data)
        if pin is not None and not terms.permit(pin.drafter):
            raise ValueError(f"the rule's own limits forbid {pin.drafter}")
        if pin is not None and (problem := terms.problem_of(pin.shape.shape)):
            raise ValueError(f"the rule's own limits forbid its shape: {problem}")
        return pin

    @property
    def about_everything(self) -> bool:
        """Whether no request can escape it."""
        return {self.task, self.tenant} <= {None, "*"}


def _terms(rule: Any) -> Terms:
    """The limits among the fields of a rule, those that are wrong left out."""
    limits = {
        name: rule[name] for name in ("max_nodes", "max_depth", "allowed_drafters", "denied_drafters") if name in rule
    }
    shapes = tuple(one.shape for one in rule.get("allowed_shapes", ()))
    return Terms(**limits, allowed_shapes=shapes)


class RouterSettings(Section):
    """Who chooses drafters and trees, and what may be chosen. Nothing here changes the text of any request."""

    policy: str = "static"
    """Who decides where neither the request nor a rule names a policy."""
    drafter: str | None = _until_restart(None)
    """The drafter of the policy `static`. Absent: the first on offer."""
    shape: ShapeSettings = _until_restart(ShapeSettings())
    """The tree that policies without a better idea draft."""
    mode: Mode = Mode.APPLY
    """off: plain decoding. observe: the policy's plans are logged, and plain decoding is served. apply: its plans are
    carried out, and it learns. frozen: they are carried out, and it learns nothing."""
    kill_switch: bool = False
    """No speculation at all, whatever else is said; `forerun router kill on` does the same by hand."""
    exploration: Share = 1.0
    """Share of its exploration that the planner is allowed; at 0 it does what it thinks best."""
    scoring_share: Share = 0.1
    """Share of finished answers of which drafters tell afterwards how they would have drafted them, when nothing is
    going on on their machine: what the policy learns about those that did not costs no request any time."""
    latency_objective_ms: Milliseconds | None = None
    """Milliseconds a token that a request should take at most. Requests that are served at once share the target, so
    the planner verifies nodes where they bring most to all of them together; a request that is slower than this looks
    after itself alone until it has caught up. Absent: none does."""
    outcomes_ahead: Annotated[int, Field(ge=0, le=MOST_OUTCOMES)] = 16
    """While the target judges a tree, its drafters draft on from this many of the likeliest outcomes, and a round whose
    outcome was foreseen waits for no draft. 0 where drafters share their processors with the target."""
    max_run: RunLength = RUN
    """Where nothing is drafted, the target may decode so many tokens by itself before it answers, instead of a round
    for each: faster, most of all with many requests at once, while a caller gets his tokens in larger pieces. The
    policy decides; `none` never does. 0: a round for every token."""
    rules: tuple[RuleSettings, ...] = ()
    """The first that matches a request holds, alone."""

    _policy_exists = field_validator("policy")(_in_the_catalogue)
    _mode_is_no_boolean = field_validator("mode", mode="before")(_mode_of)

    @field_validator("rules")
    @classmethod
    def _each_can_be_reached(cls, rules: tuple[RuleSettings, ...]) -> tuple[RuleSettings, ...]:
        for number, rule in enumerate(rules[:-1]):
            if rule.about_everything:
                raise ValueError(f"rules after number {number} are never reached: it is about every request")
        return rules

    def orders(self, config_hash: str) -> Orders:
        """As values the loop can use."""
        return Orders(
            policy=self.policy,
            kill_switch=self.kill_switch,
            default=Terms(
                mode=self.mode,
                exploration=self.exploration,
                scoring_share=self.scoring_share,
                latency_objective_ms=self.latency_objective_ms or 0.0,
                max_run=self.max_run,
            ),
            rules=tuple(self._rule(number, rule) for number, rule in enumerate(self.rules)),
            config_hash=config_hash,
        )

    def _rule(self, number: int, rule: RuleSettings) -> Rule:
        terms = Terms(
            source=f"router.rules.{number}",
            policy=rule.policy or "",
            mode=rule.mode or self.mode,
            allowed_drafters=rule.allowed_drafters,
            denied_drafters=rule.denied_drafters,
            allowed_shapes=tuple(one.shape for one in rule.allowed_shapes),
            max_nodes=rule.max_nodes,
            max_depth=rule.max_depth,
            max_run=self.max_run if rule.max_run is None else rule.max_run,
            pin=DraftPin(drafter=rule.pin.drafter, shape=rule.pin.shape.shape) if rule.pin is not None else None,
            exploration=self.exploration if rule.exploration is None else rule.exploration,
            scoring_share=self.scoring_share if rule.scoring_share is None else rule.scoring_share,
            latency_objective_ms=rule.latency_objective_ms or self.latency_objective_ms or 0.0,
        )
        return Rule(terms=terms, task=rule.task, tenant=rule.tenant)


class LimitSettings(Section):
    """What one controller takes on."""

    concurrent_requests: Count = 256
    """Most requests at once, and never more than the targets have slots; more wait for a place (`admission`)."""
    default_max_new_tokens: Count = 256
    """Most tokens of an answer where the request names no number."""


class LatencyClassSettings(Section):
    """Requests that are in the same hurry."""

    name: Label
    """What requests call it: `latency_class`, or `service_tier` over HTTP."""
    most_wait_s: Seconds = STANDARD.most_wait_s
    """Longest wait for a place. Who would have to wait longer is turned away at once, and told when to call again."""
    most_share: Annotated[float, Field(gt=0, le=1)] = STANDARD.most_share
    """Of the places, what this class and those below it may take together: the rest is kept for those above."""
    token_objective_ms: Milliseconds | None = None
    """Milliseconds a token that its answers should take at most: while they take more, fewer requests run at once.
    Absent: it does not matter."""
    tenants: tuple[str, ...] = ()
    """Patterns of the tenants that may name it: * stands for anything. Empty: all."""


def _as_settings(latency_class: LatencyClass) -> LatencyClassSettings:
    return LatencyClassSettings(**asdict(latency_class))


class AdmissionSettings(Section):
    """Who gets a place when more requests come than can be served (docs/overload.md)."""

    classes: Annotated[tuple[LatencyClassSettings, ...], Field(min_length=1, max_length=16)] = (
        _as_settings(INTERACTIVE),
        _as_settings(STANDARD),
        _as_settings(BATCH),
    )
    """The highest first: none waits behind a lower one. Those that are there by default: docs/overload.md."""
    default_class: str = STANDARD.name
    """Of requests that name none; everybody may use it."""
    most_waiting: Annotated[int, Field(ge=0)] = 256
    """Requests that wait for a place, of all classes together; beyond that the lowest class makes way. 0: none may."""
    adaptive: bool = True
    """Whether fewer requests run at once than there are slots while the targets are strained."""

    @field_validator("classes")
    @classmethod
    def _named_once(cls, classes: tuple[LatencyClassSettings, ...]) -> tuple[LatencyClassSettings, ...]:
        names = [one.name for one in classes]
        if doubles := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{', '.join(sorted(doubles))} is named more than once")
        return classes

    @field_validator("default_class")
    @classmethod
    def _exists(cls, name: str, info: ValidationInfo) -> str:
        names = [one.name for one in info.data.get("classes", ())]
        if names and name not in names:
            raise ValueError(f"no class is called {name!r}; known: {', '.join(names)}")
        return name

    @property
    def precedence(self) -> Precedence:
        """As a value."""
        classes = tuple(LatencyClass(**one.model_dump()) for one in self.classes)
        return Precedence(classes=classes, default=self.default_class, most_waiting=self.most_waiting)


class TimeoutSettings(Section):
    """How long it waits."""

    draft_timeout_s: Seconds = 0.5
    """A drafter that keeps a ready target waiting longer is late."""
    verify_wait_s: Seconds = 10.0
    """How long a request waits for a verify worker to return or to have room."""
    slow_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = 4.0
    """A worker that takes this many times as long as the others of its name is asked nothing for a while, and then a
    little at first. null: none is."""
    health_interval_s: Seconds = 1.0
    """Between two health checks of a worker."""
    health_timeout_s: Seconds = 2.0
    """A worker that does not answer a check within this is lost."""
    longest_request_s: Seconds = 600.0
    """Deadline of a request that brings none."""
    slow_reader_s: Seconds = 30.0
    """A caller that leaves unread what is written to it for so long is cut off: its request has a place meanwhile."""
    drain_grace_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    """How long running requests may go on after SIGTERM."""


class TlsSettings(Section):
    """How callers know the controller, and it them. The files are PEM; connections to come follow their changes."""

    certificate: Path
    """Its certificate, and those between it and one that callers trust. Relative to the file, like all paths here."""
    key: Path
    """The key of that, unencrypted: readable for the controller alone."""
    client_ca: Path | None = None
    """Callers must show a certificate that one of these has signed. Absent: they need not show any."""


class WorkersTlsSettings(Section):
    """How the controller knows workers, and they it. The files are PEM; connections to come follow their changes."""

    ca: Path
    """Workers must show a certificate that one of these has signed."""
    certificate: Path
    """What the controller shows to workers."""
    key: Path
    """The key of that, unencrypted."""
    server_name: str | None = None
    """The name in the certificates of all workers. Absent: of each the host in its address, which those of pods that
    come and go cannot know."""


class QuotaSettings(Section):
    """What each tenant may use; more is refused, and the refusal says when to call again. Without tokens the tenant is
    the caller's word."""

    tenant: str | None = None
    """Pattern of the tenants it is for, each by itself: * stands for anything. Absent: all, and so it must be the
    last."""
    requests_at_once: Count | None = None
    """Most requests inside. Absent, here and below: no limit but the controller's own."""
    requests_per_minute: Count | None = None
    """Most requests begun, over a minute; as many may come at once."""
    tokens_per_minute: Count | None = None
    """Most tokens of prompts and answers, likewise. An answer is counted by max_new_tokens until it has ended."""

    @property
    def quota(self) -> Quota:
        """As a value."""
        return Quota(**self.model_dump())


class PrivacySettings(Section):
    """What is remembered of texts."""

    log_tokens_of: tuple[str, ...] = ()
    """Patterns of the tenants whose prompts and answers the decision log holds, as token ids; * is everybody. Of all
    others it holds counts, chances and times, from which the router learns as well."""


class MetricsSettings(Section):
    """What Prometheus is told (docs/metrics.md). It holds no prompt, no answer and no token."""

    listen: Address | None = _until_restart(None)
    """host:port of `http://host:port/metrics`; whoever reaches it reads it all. Absent: nothing listens."""
    most_tasks: Count = _until_restart(32)
    """Task labels told apart, those seen first; the others are counted together, as `other`."""
    tenants: bool = _until_restart(False)
    """Whether requests are counted by tenant, too: the names of at most 64 are then shown to whoever reads metrics."""


class TracingSettings(Section):
    """Which requests are traced (docs/tracing.md). The standard OTEL_* variables fill in what is absent."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/]+/?$")] | None = _until_restart(None)
    """URL of a collector that takes OTLP over gRPC, such as http://127.0.0.1:4317; headers and certificates for it are
    told by OTEL_EXPORTER_OTLP_*. Absent: what OTEL_EXPORTER_OTLP_ENDPOINT says; without it, nothing is traced."""
    sample_ratio: Share | None = _until_restart(None)
    """Share of requests traced where the caller does not say. Absent: what OTEL_TRACES_SAMPLER says, or all."""
    parent_based: bool = _until_restart(True)
    """Whether a caller's `traceparent` says if its request is traced. false: sample_ratio alone does."""


class Settings(Section):
    """One controller."""

    listen: Address = _until_restart("127.0.0.1:50050")
    """host:port; loopback unless you name another host; port 0 takes a free one."""
    insecure: bool = _until_restart(False)
    """Whether it may listen without TLS where other machines can reach it: their network must be trusted, whole."""
    tls: TlsSettings | None = _until_restart(None)
    """How callers know the controller, and it them. Absent: plain text, on the loopback."""
    tokens: Path | None = _until_restart(None)
    """File of the tokens that callers must bring (`forerun token new`); its changes are followed. Absent: whoever
    reaches the controller may call and operate it."""
    workers_tls: WorkersTlsSettings | None = _until_restart(None)
    """How the controller knows workers, and they it. Absent: plain text."""
    tokenizer: Annotated[str, Field(min_length=1)] = _until_restart()
    """Folder (relative to the file) or hub id of the target's tokenizer."""
    workers: tuple[WorkerEntry, ...] = ()
    """Always part of the fleet, besides those that announce themselves in Redis."""
    redis: RedisSettings | None = _until_restart(None)
    """Where decisions are logged and workers announce themselves. Absent: no log, and only the workers listed here."""
    router: RouterSettings = RouterSettings()
    """Who chooses drafters and trees, and what may be chosen."""
    limits: LimitSettings = LimitSettings()
    """What one controller takes on."""
    admission: AdmissionSettings = AdmissionSettings()
    """Who gets a place when more requests come than can be served."""
    timeouts: TimeoutSettings = TimeoutSettings()
    """How long it waits."""
    metrics: MetricsSettings = MetricsSettings()
    """What Prometheus is told."""
    tracing: TracingSettings = TracingSettings()
    """Which requests are traced, and where to."""
    quotas: tuple[QuotaSettings, ...] = ()
    """What each tenant may use: the first that matches it holds, alone."""
    privacy: PrivacySettings = PrivacySettings()
    """What is remembered of texts."""

    @field_validator("quotas")
    @classmethod
    def _each_is_for_somebody(cls, quotas: tuple[QuotaSettings, ...]) -> tuple[QuotaSettings, ...]:
        for number, quota in enumerate(quotas[:-1]):
            if quota.tenant in (None, "*"):
                raise ValueError(f"quotas after number {number} are never reached: it is for all tenants")
        return quotas

    @field_validator("workers")
    @classmethod
    def _each_once(cls, workers: tuple[WorkerEntry, ...]) -> tuple[WorkerEntry, ...]:
        addresses = [worker.address for worker in workers]
        if doubles := {address for address in addresses if addresses.count(address) > 1}:
            raise ValueError(f"{', '.join(sorted(doubles))} is listed more than once")
        return workers

    @property
    def content_hash(self) -> str:
        """Of what was decided, however it was written."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @classmethod
    def load(cls, path: Path) -> Self:
        """The settings of a file.

        Raises:
            ConfigurationError: The file cannot be read, is no YAML, or a value is wrong; names file, line and field.
        """
        return cls.parse(content_of(path), path)

    @classmethod
    def parse(cls, text: str, path: Path) -> Self:
        """The settings of a file's content; raises as `load`."""
        settings = parsed(text, path, cls)
        return _beside(path, settings).model_copy(update={"tokenizer": _near(path, settings.tokenizer)})


def _beside(file: Path, section: SomeSection) -> SomeSection:
    """Settings whose paths no longer depend on where their file is."""
    found: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Path):
            found[name] = file.absolute().parent / value
        elif isinstance(value, Section):
            found[name] = _beside(file, value)
    return section.model_copy(update=found)


def _near(path: Path, tokenizer: str) -> str:
    """A folder beside the file, if there is one; else what was written, such as a hub id."""
    folder = path.parent / tokenizer
    return str(folder) if folder.is_dir() else tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A field in which two settings differ; None stands for an entry that only one of them has."""

    field: str
    old: Any
    new: Any
    needs_restart: bool


def changes(old: Section, new: Section) -> tuple[Change, ...]:
    """Every field in which two settings differ, in the order of the reference."""
    return tuple(_changes(old, new, where="", needs_restart=False))


def _changes(old: Any, new: Any, *, where: str, needs_restart: bool) -> Iterator[Change]:
    if old == new:
        return
    if isinstance(old, Section) and type(old) is type(new):
        for name, field in type(old).model_fields.items():
            waits = needs_restart or _waits(field)
            below = f"{where}.{name}" if where else name
            yield from _changes(getattr(old, name), getattr(new, name), where=below, needs_restart=waits)
    elif isinstance(old, tuple) and isinstance(new, tuple):
        for place in range(max(len(old), len(new))):
            entries = (entry[place] if place < len(entry) else None for entry in (old, new))
            yield from _changes(*entries, where=f"{where}.{place}", needs_restart=needs_restart)
    else:
        yield Change(field=where, old=old, new=new, needs_restart=needs_restart)


def without_restart(running: SomeSection, wanted: SomeSection) -> SomeSection:
    """The wanted settings as far as a running controller can take them on: what waits for a restart stays as it is."""
    kept: dict[str, Any] = {}
    for name, field in type(running).model_fields.items():
        old, new = getattr(running, name), getattr(wanted, name)
        if _waits(field):
            kept[name] = old
        elif isinstance(old, Section):
            kept[name] = without_restart(old, new)
    return wanted.model_copy(update=kept)


def _waits(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get(NEEDS_RESTART))
