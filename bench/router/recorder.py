"""Recording: real models through the worker's engine, sampling and sessions, in this process, without a wire.

The target answers by plain decoding. Then each drafter grows its trees at many positions of an answer at once: the text
is a chain in the engine's scratch, and the trees of all its positions hang on it. What a tree becomes at a position is
worker/drafting.py's rule; tests/bench/test_recording.py holds it to that.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.router.recording import Drafts, RecordedRequest, Recording, expanded
from controller.text import load_tokenizer
from forerun.models import model_folder
from forerun.progress import steps
from forerun.workload import Task
from speculation.errors import ConfigurationError
from speculation.sampling import SamplingParameters
from speculation.tree import EMPTY_TREE, ROOT
from worker.batching import Result, Steps
from worker.drafting import log_confidences
from worker.engine import Chunk, Engine
from worker.models import LoadedModel, content_hash, load_model
from worker.sampling import Sampler
from worker.sessions import Session, read
from worker.surprisal import PromptSurprisal
from worker.verification import verify

TARGET = "target"
"""Under which the target's revision is kept."""

ANSWERS_AT_ONCE = 32
DRAFTED_AT_ONCE = 4
"""Requests that share forwards of the target, and of a drafter."""

POSITIONS_AT_ONCE = 32
"""Positions of an answer whose trees grow together: more make wider forwards, and more keys for each query."""


def record(
    tasks: Sequence[Task],
    *,
    target: str,
    drafters: Mapping[str, str],
    temperatures: Sequence[float],
    depths: Mapping[int, int],
    max_new_tokens: int,
    seed: int,
    longer: Mapping[str, int] = MappingProxyType({}),
) -> Recording:
    """Let the models say everything that a replay may ask.

    Args:
        tasks: Prompts; each is answered at every temperature.
        target: Model that answers.
        drafters: Model of each drafter.
        temperatures: 0 for greedy decoding.
        depths: For each branching how deep to grow.
        max_new_tokens: Most tokens of an answer.
        seed: Of the first request; every further one takes the next.
        longer: Most tokens of an answer of these prompt sets instead.
    """
    most_tokens = {task.prompt_set: max_new_tokens for task in tasks} | dict(longer)
    prompts, requests = _answers(tasks, target, temperatures, most_tokens, seed)
    read_by = {name: _read_by(name, model, prompts, requests, depths) for name, model in drafters.items()}
    sizes = [request.length * len(drafters) * len(depths) for request in requests]
    located = [
        replace(
            request,
            surprisal={name: value for name in drafters if (value := read_by[name][place][0]) is not None},
            first_draft=first,
        )
        for place, (request, first) in enumerate(zip(requests, accumulate(sizes, initial=0), strict=False))
    ]
    return Recording(
        drafters=tuple(drafters),
        depths=dict(depths),
        revisions=revisions_of(target, drafters),
        requests=tuple(located),
        drafts=Drafts.joined([read_by[name][place][1] for place in range(len(requests)) for name in drafters]),
    )


def revisions_of(target: str, drafters: Mapping[str, str]) -> Mapping[str, str]:
    """Of the models as they are now."""
    models = {TARGET: target, **drafters}
    return {name: content_hash(Path(model_folder(model))) for name, model in models.items()}


def require_same_models(recording: Recording, revisions: Mapping[str, str]) -> None:
    """Refuse what other models said.

    Raises:
        ConfigurationError: A model has changed since, or was not there.
    """
    names = sorted(revisions.keys() | recording.revisions.keys())
    if changed := [name for name in names if revisions.get(name) != recording.revisions.get(name)]:
        raise ConfigurationError("--recording", f"was made with other models of {', '.join(changed)}: record anew")


def _answers(
    tasks: Sequence[Task], target: str, temperatures: Sequence[float], most_tokens: Mapping[str, int], seed: int
) -> tuple[list[tuple[int, ...]], list[RecordedRequest]]:
    """Prompts and answers of all tasks at all temperatures."""
    folder = model_folder(target)
    loaded, end_tokens = load_model(folder), load_tokenizer(folder).end_token_ids
    prompts = [tuple(loaded.tokenizer.encode(task.prompt)) for task in tasks]
    asked = [
        (task, prompt, temperature) for temperature in temperatures for task, prompt in zip(tasks, prompts, strict=True)
    ]
    engine = _engine(loaded, slots=ANSWERS_AT_ONCE, room=max(map(len, prompts)) + max(most_tokens.values()) + 1)
    with steps("recording answers", len(asked)) as step:
        jobs = (
            _answer(
                engine,
                prompt,
                SamplingParameters(temperature=temperature, seed=seed + place),
                most_tokens[task.prompt_set],
            )
            for place, (task, prompt, temperature) in enumerate(asked)
        )
        answers = _together(engine, jobs, at_once=ANSWERS_AT_ONCE, step=step)
    requests = [
        RecordedRequest(
            prompt_set=task.prompt_set,
            number=task.number,
            temperature=temperature,
            seed=seed + place,
            prompt_tokens=len(prompt),
            token_ids=answer,
            length=_length(answer, end_tokens),
            surprisal={},
        )
        for place, ((task, prompt, temperature), answer) in enumerate(zip(asked, answers, strict=True))
    ]
    return [prompt for _, prompt, _ in asked], requests


def _answer(engine: Engine, prompt: Sequence[int], sampling: SamplingParameters, count: int) -> Steps[tuple[int, ...]]:
    """Plain decoding, beyond an end token, too."""
    session = _session(engine, prompt, sampling)
    for _ in range(count):
        yield from verify(engine, session, EMPTY_TREE)
    engine.close(session.slot)
    return tuple(session.token_ids[len(prompt) :])


def _read_by(
    name: str,
    model: str,
    prompts: Sequence[tuple[int, ...]],
    requests: Sequence[RecordedRequest],
    depths: Mapping[int, int],
) -> list[tuple[float | None, Drafts]]:
    """For each request the prompt's surprisal to a drafter, and its trees at all positions."""
    longest = max(len(prompt) + request.length for prompt, request in zip(prompts, requests, strict=True))
    scratch = POSITIONS_AT_ONCE * (1 + max(expanded(branching) * depth for branching, depth in depths.items()))
    engine = _engine(load_model(model_folder(model)), slots=DRAFTED_AT_ONCE, room=longest + scratch)
    with steps(f"recording {name}", len(requests)) as step:
        jobs = (_drafts(engine, prompt, request, depths) for prompt, request in zip(prompts, requests, strict=True))
        return _together(engine, jobs, at_once=DRAFTED_AT_ONCE, step=step)


def _drafts(
    engine: Engine, prompt: Sequence[int], request: RecordedRequest, depths: Mapping[int, int]
) -> Steps[tuple[float | None, Drafts]]:
    """The trees of all positions, branching by branching."""
    session = _session(engine, prompt, SamplingParameters(temperature=request.temperature, seed=request.seed))
    yield from read(engine, session, len(prompt) - 1)
    session.append(request.token_ids[: request.length])
    parts: dict[int, list[Drafts]] = {branching: [] for branching in sorted(depths)}
    for start in range(0, request.length, POSITIONS_AT_ONCE):
        positions = range(start, min(start + POSITIONS_AT_ONCE, request.length))
        tail = session.token_ids[len(prompt) + start - 1 : len(prompt) + positions.stop - 1]
        for branching, grown in parts.items():
            growth = _Growth(session, prompt, positions, branching)
            growth.grow((yield Chunk(slot=session.slot, token_ids=tail)))
            for _ in range(depths[branching] - 1):
                growth.grow((yield growth.chunk()))
            grown.append(growth.drafts())
            engine.commit(session.slot, ())
        yield Chunk(slot=session.slot, token_ids=tail, wanted=())
        engine.commit(session.slot)
    engine.close(session.slot)
    surprisal = session.surprisal.value if session.surprisal is not None else None
    return surprisal, Drafts.joined([part for grown in parts.values() for part in grown])


class _Growth:
    """The trees of many positions, level by level, as worker/drafting.py grows one when no budget ends it, and wider.

    Arrays are (positions, nodes of a level). The frontier are the nodes to look beyond, the likeliest first; at the
    beginning it is the text itself.
    """

    def __init__(self, session: Session, prompt: Sequence[int], positions: range, branching: int) -> None:
        self._sampler, self._slot, self._prompt, self._branching = session.sampler, session.slot, prompt, branching
        self._width = expanded(branching)
        answer = session.token_ids[len(prompt) :]
        rows = len(positions)
        self._paths = [[tuple(answer[:position])] for position in positions]
        self._chances: NDArray[np.float64] = np.ones((rows, 1))
        self._nodes: NDArray[np.int64] = np.full((rows, 1), ROOT)
        self._parents_in_scratch: NDArray[np.int64] = np.empty((rows, 0), dtype=np.int64)
        self._in_scratch: NDArray[np.int64] = np.arange(rows)[:, np.newaxis]
        self._num_in_scratch, self._num_nodes = rows, 0
        self._levels: list[_Level] = []

    def grow(self, logits: Tensor) -> None:
        """Add the best children of each node of the frontier, given the logits (all nodes of it, vocab) after them."""
        paths = [path for row in self._paths for path in row]
        best = log_confidences(self._sampler, logits, self._prompt, paths).topk(self._branching)
        level = _Level(
            token_ids=best.indices.numpy().reshape(len(self._paths), -1),
            parents=np.repeat(self._nodes, self._branching, axis=1),
            confidences=best.values.exp().numpy().reshape(len(self._paths), -1),
        )
        self._levels.append(level)
        chances = level.confidences.astype(np.float64) * np.repeat(self._chances, self._branching, axis=1)
        chosen = np.argsort(-chances, axis=1, kind="stable")[:, : self._width]
        self._paths = [
            [(*row[node // self._branching], tokens[node]) for node in nodes]
            for row, nodes, tokens in zip(self._paths, chosen.tolist(), level.token_ids.tolist(), strict=True)
        ]
        self._chances = np.take_along_axis(chances, chosen, axis=1)
        self._nodes = self._num_nodes + chosen
        self._num_nodes += chances.shape[1]
        above = np.repeat(self._in_scratch, self._branching, axis=1)
        self._parents_in_scratch = np.take_along_axis(above, chosen, axis=1)

    def chunk(self) -> Chunk:
        """What to forward for the logits after the frontier."""
        token_ids = [path[-1] for row in self._paths for path in row]
        self._in_scratch = self._num_in_scratch + np.arange(len(token_ids)).reshape(len(self._paths), -1)
        self._num_in_scratch += len(token_ids)
        return Chunk(slot=self._slot, token_ids=token_ids, parents=self._parents_in_scratch.ravel().tolist())

    def drafts(self) -> Drafts:
        """All that grew, position by position."""
        token_ids = np.concatenate([level.token_ids for level in self._levels], axis=1)
        return Drafts(
            token_ids=token_ids.ravel().astype(np.int32),
            parents=np.concatenate([level.parents for level in self._levels], axis=1).ravel().astype(np.int16),
            confidences=np.concatenate([level.confidences for level in self._levels], axis=1).ravel(),
            ends=np.arange(1, len(token_ids) + 1) * token_ids.shape[1],
        )


@dataclass(frozen=True, slots=True)
class _Level:
    """What one step of growth added."""

    token_ids: NDArray[np.int64]
    parents: NDArray[np.int64]
    confidences: NDArray[np.float32]


def _session(engine: Engine, prompt: Sequence[int], sampling: SamplingParameters) -> Session:
    """A session that holds the prompt's tokens and an empty slot."""
    sampler = Sampler(sampling, vocab_size=engine.vocab_size, prompt_length=len(prompt), device=engine.device)
    session = Session(sampler, PromptSurprisal(len(prompt)))
    session.append(prompt)
    session.move(engine.open())
    return session


def _engine(model: LoadedModel, *, slots: int, room: int) -> Engine:
    return Engine(model.model, slots=slots, max_length=room)


@torch.inference_mode()
def _together(engine: Engine, jobs: Iterable[Steps[Result]], *, at_once: int, step: Callable[[], None]) -> list[Result]:
    """The results of all jobs, in order; so many run at a time and share forwards."""
    waiting = enumerate(jobs)
    results: dict[int, Result] = {}
    running: list[tuple[int, Steps[Result], Chunk]] = []

    def advance(place: int, job: Steps[Result], logits: Tensor | None) -> None:
        try:
            chunk = next(job) if logits is None else job.send(logits)
        except StopIteration as stop:
            results[place] = stop.value
            step()
            return
        if chunk is not None:  # None would wait for a slot, and every job has its own
            running.append((place, job, chunk))

    while True:
        for place, job in islice(waiting, at_once - len(running)):
            advance(place, job, None)
        if not running:
            return [results[place] for place in sorted(results)]
        batch, running = running, []
        for (place, job, _), logits in zip(batch, engine.forward([chunk for _, _, chunk in batch]), strict=True):
            advance(place, job, logits)


def _length(token_ids: Sequence[int], end_tokens: frozenset[int]) -> int:
    """Up to and including the first end token."""
    return next((place + 1 for place, token in enumerate(token_ids) if token in end_tokens), len(token_ids))
