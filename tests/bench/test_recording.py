"""A recording says what a draft worker would have answered, whatever shape it is asked for."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.router.recorder import record, require_same_models, revisions_of
from bench.router.recording import RecordedRequest, Recording, depths_of
from forerun.models import model_folder
from forerun.workload import Task, tasks
from speculation.calibration import Calibration
from speculation.errors import ConfigurationError, InvalidRequestError
from speculation.sampling import SamplingParameters
from speculation.tree import TokenTree, TreeShape
from tests.worker.tiny_worker import context_of, work
from worker.drafting import draft
from worker.engine import Engine
from worker.host import TREE_ROOM
from worker.models import load_model
from worker.sampling import Sampler
from worker.sessions import Session, SessionTable

TOKENS = 10
DEPTHS = {1: 5, 4: 3}
TASKS = tasks(("code", "json"), 1)
DRAFTERS = {"code": "zoo:code", "json": "zoo:json"}
TARGET = "zoo:target"


@pytest.fixture(scope="module")
def recording() -> Recording:
    return record(
        TASKS,
        target=TARGET,
        drafters=DRAFTERS,
        temperatures=(0.0, 1.0),
        depths=DEPTHS,
        max_new_tokens=TOKENS,
        seed=3,
    )


class Worker:
    """The inside of a draft worker."""

    def __init__(self, name: str) -> None:
        loaded = load_model(model_folder(DRAFTERS[name]))
        self.engine = Engine(loaded.model, slots=1, max_length=512 + TREE_ROOM, check=False)
        self.table = SessionTable(self.engine, max_length=512)
        self.tokenizer = loaded.tokenizer

    def draft(
        self, task: Task, request: RecordedRequest, position: int, shape: TreeShape, calibration: Calibration
    ) -> TokenTree:
        prompt: Sequence[int] = self.tokenizer.encode(task.prompt)
        sampling = SamplingParameters(temperature=request.temperature, seed=request.seed)
        sampler = Sampler(
            sampling, vocab_size=self.engine.vocab_size, prompt_length=len(prompt), device=self.engine.device
        )
        session = Session(sampler)
        context = context_of([*prompt, *request.token_ids[:position]])
        steps = draft(self.engine, session, shape, max_length=512, calibration=calibration)
        tree = work(self.engine, self.table.call(session, context, steps))
        self.table.close(session)
        return tree


@pytest.fixture(scope="module")
def workers() -> dict[str, Worker]:
    return {name: Worker(name) for name in DRAFTERS}


def assert_same(recorded: TokenTree, drafted: TokenTree) -> None:
    assert recorded.token_ids == drafted.token_ids
    assert recorded.parents == drafted.parents
    assert recorded.confidences == pytest.approx(drafted.confidences, abs=1e-4)


shapes = st.sampled_from(sorted(DEPTHS)).flatmap(
    lambda branching: st.builds(
        TreeShape,
        depth=st.integers(1, DEPTHS[branching]),
        branching=st.just(branching),
        budget=st.integers(1, 40),
        least_confidence=st.sampled_from((0.0, 0.03, 0.3)),
    )
)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_shape_at_every_position_is_what_a_draft_worker_answers(
    recording: Recording, workers: dict[str, Worker], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(recording.requests) - 1))
    request, name, shape = recording.requests[place], data.draw(st.sampled_from(sorted(DRAFTERS))), data.draw(shapes)
    position = data.draw(st.integers(0, request.length - 1))

    recorded = recording.tree(request, name, position, shape)

    drafted = workers[name].draft(TASKS[place % len(TASKS)], request, position, shape, Calibration())
    assert_same(recorded, drafted)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_a_calibrated_chain_is_what_a_draft_worker_answers(
    recording: Recording, workers: dict[str, Worker], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(recording.requests) - 1))
    request, name = recording.requests[place], data.draw(st.sampled_from(sorted(DRAFTERS)))
    position = data.draw(st.integers(0, request.length - 1))
    calibration = Calibration(offset=data.draw(st.floats(-2, 2)), slope=data.draw(st.floats(0.5, 2)))
    chain = TreeShape(depth=4, branching=1, budget=4)

    recorded = recording.tree(request, name, position, chain, calibration)

    drafted = workers[name].draft(TASKS[place % len(TASKS)], request, position, chain, calibration)
    assert_same(recorded, drafted)


@pytest.mark.parametrize(
    "shape", [TreeShape(depth=4, branching=4, budget=9), TreeShape(depth=1, branching=2, budget=2)]
)
def test_a_shape_that_was_not_recorded_is_refused(recording: Recording, shape: TreeShape) -> None:
    with pytest.raises(InvalidRequestError, match="was not recorded"):
        recording.tree(recording.requests[0], "code", 0, shape)


def test_a_specialist_is_less_surprised_by_its_own_prompts(recording: Recording) -> None:
    for request in recording.requests:
        assert min(request.surprisal, key=lambda name: request.surprisal[name]) == request.prompt_set


def test_what_was_saved_is_what_is_loaded(recording: Recording, tmp_path: Path) -> None:
    file = tmp_path / "said.safetensors"
    recording.save(file)

    loaded = Recording.load(file)

    assert loaded.requests == recording.requests
    shape = TreeShape(depth=3, branching=4, budget=12)
    last = recording.requests[-1]
    assert loaded.tree(last, "json", last.length - 1, shape) == recording.tree(last, "json", last.length - 1, shape)


def test_a_recording_of_other_models_is_refused(recording: Recording) -> None:
    revisions = revisions_of(TARGET, DRAFTERS)
    require_same_models(recording, revisions)

    with pytest.raises(ConfigurationError, match="other models of json: record anew"):
        require_same_models(recording, {**revisions, "json": "another"})
    with pytest.raises(ConfigurationError, match="record anew"):
        require_same_models(replace(recording, revisions={}), revisions)


@pytest.mark.parametrize("content", [b"", b"no recording at all", b"\x10\0\0\0\0\0\0\0{}              "])
def test_a_file_that_is_no_recording_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "said.safetensors"
    file.write_bytes(content)

    with pytest.raises(ConfigurationError, match="is no recording"):
        Recording.load(file)


def test_depths_are_the_largest_of_each_branching() -> None:
    shapes = [TreeShape(depth=depth, branching=branching, budget=1) for depth, branching in ((3, 1), (8, 1), (4, 2))]

    assert depths_of(shapes) == {1: 8, 2: 4}
