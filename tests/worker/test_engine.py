"""The laws of forward, commit and truncate: a session's logits depend on its own path and on nothing else."""

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import worker.prepacked
from speculation.errors import CapacityError, InvalidRequestError, InvalidTreeError
from tests.architectures import SERVABLE, VOCAB_SIZE, plain_logits, served_model
from worker.engine import ROOT, Chunk, Engine, NoFreeSlotError, SlotFullError
from worker.panels import PanelLinear

MAX_LENGTH = 96
TOLERANCE = 2e-5
"""On logits of size about one."""


@functools.cache
def shared_engine(architecture: str, *, padded: bool = False) -> Engine:
    """An engine for tests that give back what they open."""
    return Engine(served_model(architecture), slots=4, max_length=MAX_LENGTH, padded=padded)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Compiled, whatever a trial would find."""
    monkeypatch.setattr(worker.prepacked, "FORMS", (PanelLinear,))
    return Engine(served_model("llama"), slots=4, max_length=MAX_LENGTH, check=False, prepack="on")


def assert_close(logits: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)


def prefilled(engine: Engine, token_ids: Sequence[int]) -> int:
    slot = engine.open()
    engine.forward([Chunk(slot=slot, token_ids=token_ids, wanted=())])
    engine.commit(slot)
    return slot


def continuation(engine: Engine, slot: int, token_ids: Sequence[int] = (7, 8, 9)) -> Tensor:
    """The logits of a few more tokens, which are forgotten again: what the slot holds, as seen from outside."""
    (logits,) = engine.forward([Chunk(slot=slot, token_ids=token_ids)])
    engine.commit(slot, ())
    return logits


def paths_of(prefix: Sequence[int], token_ids: Sequence[int], parents: Sequence[int]) -> list[list[int]]:
    paths: list[list[int]] = []
    for token, parent in zip(token_ids, parents, strict=True):
        paths.append([*(prefix if parent == ROOT else paths[parent]), token])
    return paths


def expected_logits(architecture: str, paths: Sequence[Sequence[int]]) -> Tensor:
    """Plain logits after each path; a path that leads on to another one is read off that."""
    leaves = [
        path for path in paths if not any(len(other) > len(path) and other[: len(path)] == path for other in paths)
    ]
    known = [(leaf, plain_logits(architecture, leaf)) for leaf in leaves]
    return torch.stack(
        [next(logits[len(path) - 1] for leaf, logits in known if leaf[: len(path)] == path) for path in paths]
    )


tokens = st.integers(0, VOCAB_SIZE - 1)
prompts = st.lists(tokens, min_size=1, max_size=30)


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    """Token ids, parents, and how many of them are forwarded first."""
    size = draw(st.integers(2, 12))
    token_ids = draw(st.lists(tokens, min_size=size, max_size=size))
    parents = [draw(st.integers(ROOT, node - 1)) for node in range(size)]
    return token_ids, parents, draw(st.integers(1, size - 1))


@pytest.mark.parametrize("padded", [False, True], ids=["one by one", "padded"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "mistral", "llama4"])
@settings(max_examples=20, deadline=None)
@given(sessions=st.lists(st.tuples(prompts, trees()), min_size=1, max_size=3))
def test_every_node_of_a_random_tree_has_the_logits_of_its_own_path(
    architecture: str, padded: bool, sessions: list[tuple[list[int], tuple[list[int], list[int], int]]]
) -> None:
    engine = shared_engine(architecture, padded=padded)
    slots = [engine.open() for _ in sessions]

    engine.forward([Chunk(slot=slot, token_ids=prompt) for slot, (prompt, _) in zip(slots, sessions, strict=True)])
    for slot in slots:
        engine.commit(slot)
    grown = [(slot, *tree) for slot, (_, tree) in zip(slots, sessions, strict=True)]
    first = engine.forward([Chunk(slot=slot, token_ids=ids[:cut], parents=up[:cut]) for slot, ids, up, cut in grown])
    rest = engine.forward([Chunk(slot=slot, token_ids=ids[cut:], parents=up[cut:]) for slot, ids, up, cut in grown])
    for slot in slots:
        engine.close(slot)

    for (prompt, (token_ids, parents, _)), above, below in zip(sessions, first, rest, strict=True):
        assert_close(torch.cat([above, below]), expected_logits(architecture, paths_of(prompt, token_ids, parents)))


@pytest.mark.parametrize("padded", [False, True], ids=["one by one", "padded"])
@pytest.mark.parametrize("architecture", SERVABLE)
def test_prompts_trees_and_single_tokens_share_one_forward(architecture: str, padded: bool) -> None:
    engine = shared_engine(architecture, padded=padded)
    generator = torch.Generator().manual_seed(1)
    prompt, past, other_past = (torch.randint(VOCAB_SIZE, (n,), generator=generator).tolist() for n in (70, 33, 21))
    fresh, deciding, decoding = engine.open(), prefilled(engine, past), prefilled(engine, other_past)
    token_ids, parents = [5, 6, 7, 6, 8, 9, 10], [ROOT, 0, 0, 1, 1, 3, ROOT]

    first, tree, single = engine.forward(
        [
            Chunk(slot=fresh, token_ids=prompt),
            Chunk(slot=deciding, token_ids=token_ids, parents=parents),
            Chunk(slot=decoding, token_ids=[11]),
        ]
    )
    for slot in (fresh, deciding, decoding):
        engine.close(slot)

    assert_close(first, plain_logits(architecture, prompt))
    assert_close(tree, expected_logits(architecture, paths_of(past, token_ids, parents)))
    assert_close(single, plain_logits(architecture, [*other_past, 11])[-1:])


@pytest.mark.parametrize("architecture", SERVABLE)
def test_committing_a_path_is_as_if_only_its_tokens_had_ever_been_sent(architecture: str) -> None:
    engine = shared_engine(architecture)
    token_ids, parents, keep = [5, 6, 7, 6, 8, 9, 10], [ROOT, 0, 0, 1, 2, 4, 5], [0, 2, 4, 5]
    slot = prefilled(engine, range(20))

    engine.forward([Chunk(slot=slot, token_ids=token_ids, parents=parents, wanted=())])
    engine.commit(slot, keep)
    logits = continuation(engine, slot)
    length = engine.length(slot)
    engine.close(slot)

    assert length == 24
    assert_close(logits, plain_logits(architecture, [*range(20), 5, 7, 8, 9, 7, 8, 9])[-3:])


def test_committing_nothing_forgets_the_scratch(engine: Engine) -> None:
    slot = prefilled(engine, range(10))
    before = continuation(engine, slot)

    engine.forward([Chunk(slot=slot, token_ids=[3, 4, 5], parents=[ROOT, ROOT, 0])])
    engine.commit(slot, ())

    assert engine.length(slot) == 10
    assert torch.equal(continuation(engine, slot), before)


def test_truncating_and_replaying_gives_the_same_session(engine: Engine) -> None:
    slot = prefilled(engine, range(30))
    before = continuation(engine, slot)
    engine.forward([Chunk(slot=slot, token_ids=[99])])

    engine.truncate(slot, 12)
    engine.forward([Chunk(slot=slot, token_ids=range(12, 30))])
    engine.commit(slot)

    assert engine.length(slot) == 30
    assert_close(continuation(engine, slot), before)


def test_a_truncated_session_is_the_shorter_session(engine: Engine) -> None:
    slot = prefilled(engine, range(30))

    engine.truncate(slot, 12)

    assert_close(continuation(engine, slot), plain_logits("llama", [*range(12), 7, 8, 9])[-3:])


def test_a_prompt_may_come_in_pieces(engine: Engine) -> None:
    slot = engine.open()

    for piece in (range(9), range(9, 10), range(10, 25)):
        engine.forward([Chunk(slot=slot, token_ids=piece, wanted=())])
    engine.commit(slot)

    assert_close(continuation(engine, slot), plain_logits("llama", [*range(25), 7, 8, 9])[-3:])


@pytest.mark.parametrize("padded", [False, True], ids=["one by one", "padded"])
def test_sessions_do_not_see_each_other(padded: bool) -> None:
    engine = Engine(served_model("llama"), slots=3, max_length=MAX_LENGTH, check=False, padded=padded)
    slot = prefilled(engine, range(10))
    alone = continuation(engine, slot)
    neighbour = prefilled(engine, range(40, 90))

    chunk, noise = Chunk(slot=slot, token_ids=[7, 8, 9]), Chunk(slot=neighbour, token_ids=[1, 2], parents=[ROOT, ROOT])
    before, _ = engine.forward([chunk, noise])
    engine.commit(slot, ())
    engine.close(neighbour)
    engine.truncate(slot, 10)

    assert_close(before, alone)
    assert_close(continuation(engine, slot), alone)


@pytest.mark.parametrize("padded", [False, True], ids=["one by one", "padded"])
def test_not_a_number_in_one_session_stays_there(padded: bool) -> None:
    engine = Engine(served_model("llama"), slots=2, max_length=MAX_LENGTH, check=False, padded=padded)
    sick, sound = prefilled(engine, range(40)), prefilled(engine, range(10))  # row 0 of the pool is sick
    alone = continuation(engine, sound)
    for values in engine._pool.values.values():
        values[sick * MAX_LENGTH : (sick + 1) * MAX_LENGTH] = torch.nan

    logits, spoilt = engine.forward(
        [Chunk(slot=sound, token_ids=[7, 8, 9]), Chunk(slot=sick, token_ids=[7, 8, 9, 10, 11])]
    )

    assert spoilt.isnan().all()
    assert_close(logits, alone)


def test_a_reopened_slot_is_empty(engine: Engine) -> None:
    slot = prefilled(engine, range(20))
    engine.forward([Chunk(slot=slot, token_ids=[1, 2])])
    engine.close(slot)

    reopened = engine.open()

    assert engine.length(reopened) == 0
    assert_close(continuation(engine, reopened), plain_logits("llama", [7, 8, 9]))


@pytest.mark.parametrize("wanted", [None, (), (2,), (0, 3), (3, 0)], ids=str)
def test_only_wanted_logits_are_returned_in_the_order_asked_for(engine: Engine, wanted: tuple[int, ...] | None) -> None:
    slot, other = engine.open(), engine.open()
    token_ids = [3, 1, 4, 1]

    logits, rest = engine.forward(
        [Chunk(slot=slot, token_ids=token_ids, wanted=wanted), Chunk(slot=other, token_ids=[5, 9])]
    )

    assert_close(logits, plain_logits("llama", token_ids)[list(range(4) if wanted is None else wanted)])
    assert_close(rest, plain_logits("llama", [5, 9]))


def test_nothing_to_do_is_done(engine: Engine) -> None:
    assert engine.forward([]) == []


def test_opening_more_slots_than_there_are_is_refused() -> None:
    engine = Engine(served_model("llama"), slots=1, max_length=8, check=False)
    slot = engine.open()

    with pytest.raises(NoFreeSlotError):
        engine.open()

    engine.close(slot)
    assert engine.open() == slot


def test_capacity_errors_tell_the_caller_to_try_again_later() -> None:
    assert issubclass(NoFreeSlotError, CapacityError)
    assert issubclass(SlotFullError, CapacityError)


def _broken_chunks(slot: int, sound: int) -> dict[str, tuple[list[Chunk], type[Exception]]]:
    good = Chunk(slot=sound, token_ids=[1, 2])
    return {
        "too many tokens": ([good, Chunk(slot=slot, token_ids=range(MAX_LENGTH - 12))], SlotFullError),
        "child before its parent": ([good, Chunk(slot=slot, token_ids=[1, 2], parents=[4, 3])], InvalidTreeError),
        "parent below the root": ([good, Chunk(slot=slot, token_ids=[1], parents=[-2])], InvalidTreeError),
        "fewer parents than tokens": ([good, Chunk(slot=slot, token_ids=[1, 2], parents=[ROOT])], InvalidTreeError),
        "token beyond the vocabulary": ([good, Chunk(slot=slot, token_ids=[VOCAB_SIZE])], InvalidRequestError),
        "negative token": ([good, Chunk(slot=slot, token_ids=[-1])], InvalidRequestError),
        "no token": ([good, Chunk(slot=slot, token_ids=[])], InvalidRequestError),
        "wanted index out of range": ([good, Chunk(slot=slot, token_ids=[1], wanted=[1])], InvalidRequestError),
        "closed slot": ([good, Chunk(slot=77, token_ids=[1])], InvalidRequestError),
        "one slot twice": ([good, Chunk(slot=slot, token_ids=[1]), good], InvalidRequestError),
    }


@pytest.mark.parametrize("fault", _broken_chunks(0, 1))
def test_a_refused_forward_changes_no_slot(engine: Engine, fault: str) -> None:
    slot, sound = prefilled(engine, range(10)), prefilled(engine, range(5))
    engine.forward([Chunk(slot=slot, token_ids=[20, 21, 22], parents=[ROOT, ROOT, 1])])
    chunks, error = _broken_chunks(slot, sound)[fault]

    with pytest.raises(error):
        engine.forward(chunks)

    (logits,) = engine.forward([Chunk(slot=slot, token_ids=[23], parents=[2])])
    engine.commit(slot, [1, 2, 3])
    assert_close(logits, plain_logits("llama", [*range(10), 21, 22, 23])[-1:])
    assert_close(continuation(engine, slot), plain_logits("llama", [*range(10), 21, 22, 23, 7, 8, 9])[-3:])
    assert_close(continuation(engine, sound), plain_logits("llama", [*range(5), 7, 8, 9])[-3:])


@contextmanager
def failing_in_its_last_layer(engine: Engine) -> Iterator[None]:
    def fail(*_: object) -> None:
        raise MemoryError("out of memory in the last layer")

    compiled = engine._compiled
    if compiled is None:
        with engine._model.model.layers[-1].register_forward_pre_hook(fail):
            yield
    else:
        decode = compiled._kernels.decode

        def decode_but_for_the_last(*arguments: Any) -> None:
            *others, layers, sizes, factors = arguments
            decode(*others, layers[:-1], sizes, factors)
            fail()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compiled._kernels, "decode", decode_but_for_the_last)
            yield


@pytest.mark.parametrize("compiled", [True, False])
def test_a_forward_that_fails_halfway_changes_no_slot(engine: Engine, compiled: bool) -> None:
    assert engine._compiled is not None
    if not compiled:
        engine._compiled = None
    slot = prefilled(engine, range(10))
    engine.forward([Chunk(slot=slot, token_ids=[20, 21], parents=[ROOT, ROOT])])

    with failing_in_its_last_layer(engine), pytest.raises(MemoryError):
        engine.forward([Chunk(slot=slot, token_ids=[22, 23, 24])])

    (logits,) = engine.forward([Chunk(slot=slot, token_ids=[25], parents=[1])])
    engine.commit(slot, [1, 2])
    assert_close(logits, plain_logits("llama", [*range(10), 21, 25])[-1:])
    assert_close(continuation(engine, slot), plain_logits("llama", [*range(10), 21, 25, 7, 8, 9])[-3:])


def test_a_slot_can_be_filled_to_the_last_token(engine: Engine) -> None:
    slot = prefilled(engine, range(MAX_LENGTH - 1))

    (logits,) = engine.forward([Chunk(slot=slot, token_ids=[200])])
    engine.commit(slot)

    assert_close(logits, plain_logits("llama", [*range(MAX_LENGTH - 1), 200])[-1:])
    with pytest.raises(SlotFullError):
        engine.forward([Chunk(slot=slot, token_ids=[1])])


def test_no_token_is_placed_beyond_the_models_context() -> None:
    engine = Engine(served_model("gpt2"), slots=1, max_length=300, check=False)
    slot = prefilled(engine, [1] * 255)

    engine.forward([Chunk(slot=slot, token_ids=[1, 2, 3], parents=[ROOT, ROOT, ROOT])])  # all at the last position
    with pytest.raises(SlotFullError, match="256"):
        engine.forward([Chunk(slot=slot, token_ids=[4], parents=[0])])


@pytest.mark.parametrize(
    "keep",
    [
        pytest.param([1], id="begins below the prefix"),
        pytest.param([0, 3], id="leaves out a token"),
        pytest.param([0, 1, 2], id="takes two siblings"),
        pytest.param([0, 9], id="names a token that is not there"),
        pytest.param(None, id="takes all of a tree"),
    ],
)
def test_only_a_path_can_be_committed(engine: Engine, keep: list[int] | None) -> None:
    slot = prefilled(engine, range(10))
    engine.forward([Chunk(slot=slot, token_ids=[1, 2, 3, 4], parents=[ROOT, 0, 0, 2])])

    with pytest.raises(InvalidTreeError):
        engine.commit(slot, keep)

    assert engine.length(slot) == 10
    engine.commit(slot, [0, 2, 3])
    assert_close(continuation(engine, slot), plain_logits("llama", [*range(10), 1, 3, 4, 7, 8, 9])[-3:])


@pytest.mark.parametrize("length", [-1, 11])
def test_a_session_cannot_be_cut_to_what_it_never_held(engine: Engine, length: int) -> None:
    slot = prefilled(engine, range(10))

    with pytest.raises(InvalidRequestError, match="length"):
        engine.truncate(slot, length)

    assert engine.length(slot) == 10


def test_two_engines_run_on_two_threads_of_one_process() -> None:
    token_ids = list(range(40))
    engines = {name: Engine(served_model(name), slots=1, max_length=64, check=False) for name in ("llama", "mistral")}
    answers: dict[str, list[Tensor]] = {name: [] for name in engines}
    start = threading.Barrier(len(engines))

    def work(name: str) -> None:
        engine = engines[name]
        start.wait()
        for _ in range(25):
            slot = engine.open()
            answers[name] += engine.forward([Chunk(slot=slot, token_ids=token_ids)])
            engine.close(slot)

    threads = [threading.Thread(target=work, args=(name,)) for name in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for name, logits in answers.items():
        assert len(logits) == 25
        assert_close(torch.stack(logits), plain_logits(name, token_ids).expand(25, -1, -1))


def test_one_model_can_serve_two_engines() -> None:
    model = served_model("llama")
    first, second = (Engine(model, slots=1, max_length=32, check=False) for _ in range(2))
    one, two = prefilled(first, range(10)), prefilled(second, range(20, 25))

    assert_close(continuation(first, one), plain_logits("llama", [*range(10), 7, 8, 9])[-3:])
    assert_close(continuation(second, two), plain_logits("llama", [*range(20, 25), 7, 8, 9])[-3:])


def test_a_served_model_says_why_it_cannot_be_called_directly(engine: Engine) -> None:
    with pytest.raises(RuntimeError, match="belongs to an Engine"):
        engine._model(input_ids=torch.tensor([[1, 2]]))


def test_an_engine_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        Engine(served_model("llama"), slots=0, max_length=8)
