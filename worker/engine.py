"""The engine: one class for draft and verify workers that runs any Hugging Face causal LM over many sessions at once.

The new tokens of all sessions form one packed row, so linear layers see no padding. A session is a slot: a committed
prefix, then the scratch, a tree of tokens forwarded since. Prefill, verification and drafting are the same call:

    prefill   forward(prompt)       commit()
    verify    forward(root + tree)  commit(accepted path)
    draft     forward(frontier), again and again, then commit(accepted path) or commit(())
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from speculation.errors import CapacityError, InvalidRequestError, UnservableModelError
from speculation.tree import ROOT
from worker.attention import IMPLEMENTATION, AttentionStep, ShapeRecorder, UnsupportedAttentionError, running
from worker.cache import KeyValuePool, LayerShape, PackedRow
from worker.compiled_model import CompiledModel, can_be_compiled, compiled_model
from worker.evidence import Weigh, by_kernel, by_torch
from worker.exact_attention import ExactStep, refuse_inexact, step_of_queries
from worker.exact_linear import make_linears_exact, pad_rows
from worker.exact_probe import BITS_LENGTH, require_equal_bits
from worker.lean_layers import LeanModel, lean_model, make_layers_lean
from worker.models import context_length
from worker.prepacked import pack_in_panels, prepack_linears
from worker.probe import PROBE_LENGTH, PROBE_SLOTS, Probed, probe, refuse_unservable, require_agreement, require_exact
from worker.scratch import EMPTY, Chunk, Scratch
from worker.settings import Prepack
from worker.slots import NoFreeSlotError
from worker.step import PooledStep, Span

__all__ = ["ROOT", "Chunk", "Engine", "NoFreeSlotError", "SlotFullError"]


class SlotFullError(CapacityError):
    """The tokens do not fit into the slot or the model's context; nothing was changed."""


@dataclass(slots=True, kw_only=True)
class _Slot:
    """What the engine knows of one session; its keys and values lie in pool rows from first_row on."""

    first_row: int
    num_committed: int = 0
    scratch: Scratch = EMPTY
    scratch_ids: tuple[int, ...] = ()

    def clear_scratch(self) -> None:
        self.scratch, self.scratch_ids = EMPTY, ()


class Engine:
    """Forward, commit and truncate over a fixed number of slots. One thread at a time may use it.

    It takes the model over: afterwards the model can be run only through engines. Every refusal and overflow is raised
    before any slot changes, and a forward that fails leaves every slot as it was. Logits are inference tensors: clone
    them to change them in place outside `torch.inference_mode`.

    Args:
        model: A causal LM in evaluation mode on one device.
        slots: Sessions that can be open at once.
        max_length: Tokens a slot can hold, scratch included.
        check: Compare the engine with the plain model first, and again once weights are packed, and refuse the model if
            they differ.
        padded: Attend to short sessions in one padded batch; None does so on GPUs.
        exact: Let the logits of a token not depend, to the last bit, on what else a forward holds; bfloat16 on a CPU.
            By compiled kernels where weights may be packed for them, else by torch's in a slower way.
        prepack: Whether weights are packed once the model is checked.
        forward_threads: Threads that share a forward, where our kernels compute it.

    Attributes:
        probe_error: Largest relative error of the logits seen by the check; 0.0 where it was switched off.
        weigh: What a verdict on its logits rests on, in the way that suits them.

    Raises:
        UnservableModelError: The architecture cannot be served exactly; the message says why.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        slots: int,
        max_length: int,
        check: bool = True,
        padded: bool | None = None,
        exact: bool = False,
        prepack: Prepack = "off",
        forward_threads: int = 1,
    ) -> None:
        if slots < 1 or max_length < 1:
            raise ValueError(f"slots={slots} and max_length={max_length} must both be positive")
        if exact and (model.dtype != torch.bfloat16 or model.device.type != "cpu"):
            raise ValueError(f"{model.dtype} on {model.device} is not served bit for bit; bfloat16 on a CPU is")
        refuse_unservable(model)
        model.train(False)
        self._model = model
        self.slots, self.max_length = slots, max_length
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self._padded = self.device.type == "cuda" if padded is None else padded
        by_kernels = exact and prepack != "off" and can_be_compiled(model, max_length)
        self._exact_by_torch = exact and not by_kernels
        self._context_length = context_length(model)
        embeddings: Any = model.get_input_embeddings()
        self._num_embeddings: int = embeddings.num_embeddings
        self._selects_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._past = PackedRow()
        self._open: dict[int, _Slot] = {}
        self._free = list(reversed(range(slots)))
        self._forward_threads = forward_threads
        self._lean: LeanModel | None = None
        if not self._exact_by_torch:
            make_layers_lean(model)
            self._lean = lean_model(model)
        model.set_attn_implementation(IMPLEMENTATION)
        shapes, self.vocab_size = self._learn_shapes()
        if self._exact_by_torch:
            self._query_step = step_of_queries(type(model).__name__, shapes.values())
            make_linears_exact(model)
        self.probe_error = 0.0
        if check:
            probed = self._probed()
            self.probe_error = require_exact(model, probed)
        is_packed = pack_in_panels(model) if by_kernels else not exact and prepack_linears(model, prepack)
        if is_packed and check:
            self.probe_error = max(self.probe_error, require_agreement(model, self._probed(), expected=probed))
        if check and exact:
            require_equal_bits(model, self._another(slots=2, max_length=BITS_LENGTH))
        self._pool = KeyValuePool(shapes, rows=slots * max_length, device=self.device)
        self._compiled: CompiledModel | None = None
        if self._lean is not None:
            self._compiled = compiled_model(self._lean, self._pool, max_length, forward_threads)
        self.weigh: Weigh = by_torch if self._compiled is None else by_kernel()

    @property
    def num_free(self) -> int:
        """Slots that nobody has reserved."""
        return len(self._free)

    @property
    def cache_bytes(self) -> int:
        """Memory held for keys and values."""
        return self._pool.num_bytes

    @property
    def cache_tokens(self) -> int:
        """Tokens that fit into it."""
        return self.slots * self.max_length

    def open(self) -> int:
        """Reserve an empty slot.

        Raises:
            NoFreeSlotError: All slots are open.
        """
        if not self._free:
            raise NoFreeSlotError(f"all {self.slots} slots are in use")
        slot = self._free.pop()
        self._open[slot] = _Slot(first_row=slot * self.max_length)
        return slot

    def close(self, slot: int) -> None:
        """Give the slot back; its contents are gone."""
        self._slot(slot)
        del self._open[slot]
        self._free.append(slot)

    def length(self, slot: int) -> int:
        """Committed tokens of the slot."""
        return self._slot(slot).num_committed

    def scratch(self, slot: int) -> list[tuple[int, int]]:
        """(token, parent) of what was forwarded since the last commit, parents counted as in a chunk."""
        state = self._slot(slot)
        return list(zip(state.scratch_ids, state.scratch.parents, strict=True))

    @torch.inference_mode()
    def forward(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """Run the model once over the new tokens of several sessions and append them to their scratch.

        Args:
            chunks: At most one per slot; of any lengths.

        Returns:
            For each chunk the logits (wanted, vocab) of its wanted tokens, in the model's dtype.

        Raises:
            InvalidRequestError: A slot is not open or named twice, or a token or wanted index is out of range.
            InvalidTreeError: A token comes before its parent.
            SlotFullError: The tokens do not fit.
        """
        if not chunks:
            return []
        if len({chunk.slot for chunk in chunks}) < len(chunks):
            raise InvalidRequestError("slot", "two chunks of one forward name the same slot")
        grown = [self._grown(chunk) for chunk in chunks]
        logits = self._run(chunks, grown)
        for chunk, scratch in zip(chunks, grown, strict=True):
            state = self._open[chunk.slot]
            state.scratch, state.scratch_ids = scratch, (*state.scratch_ids, *chunk.token_ids)
        return [logits] if len(chunks) == 1 else list(logits.split_with_sizes([chunk.num_wanted for chunk in chunks]))

    def commit(self, slot: int, keep: Sequence[int] | None = None) -> None:
        """Move a path of the scratch to the committed prefix and forget the rest.

        Args:
            slot: The session.
            keep: Scratch indices from a child of the prefix downwards; () keeps nothing, None all.

        Raises:
            InvalidTreeError: The kept tokens are not a path.
        """
        state = self._slot(slot)
        kept = state.scratch.path(keep)
        # Tokens already in place need no copy, and a path often starts as a chain.
        in_place = next((place for place, node in enumerate(kept) if place != node), len(kept))
        first_row = state.first_row + state.num_committed
        if in_place < len(kept):
            self._move([first_row + node for node in kept[in_place:]], first_row + in_place)
        state.num_committed += len(kept)
        state.clear_scratch()

    def truncate(self, slot: int, length: int) -> None:
        """Forget committed tokens beyond `length`, and all scratch.

        Raises:
            InvalidRequestError: The slot holds fewer tokens.
        """
        state = self._slot(slot)
        if not 0 <= length <= state.num_committed:
            raise InvalidRequestError("length", f"cannot cut {state.num_committed} tokens to {length}")
        state.num_committed = length
        state.clear_scratch()

    @torch.inference_mode()
    def copy(self, source: int, target: int, length: int) -> None:
        """Let a slot hold the first `length` committed tokens of another one, and nothing else.

        Raises:
            InvalidRequestError: The source holds fewer tokens, or is the target.
        """
        origin, state = self._slot(source), self._slot(target)
        if origin is state:
            raise InvalidRequestError("target", f"slot {target} cannot be copied to itself")
        if not 0 <= length <= origin.num_committed:
            raise InvalidRequestError("length", f"cannot copy {length} tokens of {origin.num_committed}")
        self._pool.copy(origin.first_row, state.first_row, length)
        state.num_committed = length
        state.clear_scratch()

    @torch.inference_mode()
    def _move(self, sources: list[int], first_row: int) -> None:
        self._pool.move(torch.tensor(sources, device=self.device), first_row)

    def _probed(self) -> Probed:
        """What an engine like this one says to all that is tried."""
        return probe(self._model, self._another(slots=PROBE_SLOTS, max_length=PROBE_LENGTH))

    def _another(self, *, slots: int, max_length: int) -> "Engine":
        """An engine like this one, for the same model as it is now."""
        return Engine(
            self._model,
            slots=slots,
            max_length=max_length,
            check=False,
            padded=self._padded,
            exact=self._exact_by_torch,
            forward_threads=self._forward_threads,
        )

    def _slot(self, slot: int) -> _Slot:
        try:
            return self._open[slot]
        except KeyError:
            raise InvalidRequestError("slot", f"slot {slot} is not open") from None

    def _grown(self, chunk: Chunk) -> Scratch:
        """The slot's scratch as it will be after the chunk, everything about the chunk being checked."""
        state = self._slot(chunk.slot)
        count = len(chunk.token_ids)
        if not count:
            raise InvalidRequestError("token_ids", "a chunk needs at least one token")
        if min(chunk.token_ids) < 0 or max(chunk.token_ids) >= self._num_embeddings:
            raise InvalidRequestError("token_ids", f"token ids must lie in [0, {self._num_embeddings})")
        if chunk.wanted and not 0 <= min(chunk.wanted) <= max(chunk.wanted) < count:
            raise InvalidRequestError("wanted", f"indices must lie in [0, {count})")
        scratch = state.scratch.grown(count, chunk.parents)
        needed = state.num_committed + len(scratch)
        if needed > self.max_length:
            raise SlotFullError(f"slot {chunk.slot} holds {self.max_length} tokens; {needed} are needed")
        deepest = state.num_committed + 1 + max(scratch.depths)
        if self._context_length is not None and deepest > self._context_length:
            raise SlotFullError(f"the model reads {self._context_length} tokens; {deepest} are needed")
        return scratch

    def _run(self, chunks: Sequence[Chunk], grown: Sequence[Scratch]) -> Tensor:
        """One model call; logits of all wanted tokens, chunk after chunk."""
        spans: list[Span] = []
        token_ids: list[int] = []
        positions: list[int] = []
        rows: list[int] = []
        wanted: list[int] = []
        for chunk, scratch in zip(chunks, grown, strict=True):
            wanted += [len(token_ids) + index for index in _wanted(chunk)]
            span = self._span(chunk, scratch, start=len(token_ids))
            spans.append(span)
            token_ids += chunk.token_ids
            positions += span.positions[-span.num_new :]
            rows += range(*span.new_rows)
        if self._exact_by_torch:
            step: AttentionStep = ExactStep(self._pool, spans, torch.tensor(rows), step=self._query_step)
            padded = [_padded(numbers) for numbers in (token_ids, positions, wanted)]
            return self._call(step, torch.tensor(padded[0]), torch.tensor(padded[1]), padded[2])[: len(wanted)]
        if self._compiled is not None:
            return self._compiled(token_ids, spans, wanted)
        row = torch.tensor([token_ids, positions, rows], device=self.device)
        step = PooledStep(self._pool, spans, row[2], padded=self._padded)
        return self._call(step, row[0], row[1], None if wanted == list(range(len(token_ids))) else wanted)

    def _span(self, chunk: Chunk, scratch: Scratch, *, start: int) -> Span:
        state = self._open[chunk.slot]
        count = len(chunk.token_ids)
        return Span(
            start=start,
            stop=start + count,
            first_row=state.first_row,
            num_committed=state.num_committed,
            positions=[state.num_committed + depth for depth in scratch.depths],
            ancestry=None if scratch.is_chain else scratch.ancestry(len(scratch) - count),
        )

    def _call(self, step: AttentionStep, token_ids: Tensor, positions: Tensor, wanted: list[int] | None) -> Tensor:
        """Logits (wanted, vocab) of a packed row; None wants all, in order."""
        selected = None if wanted is None else torch.tensor(wanted, dtype=torch.long, device=self.device)
        if self._lean is not None:
            with running(step):
                return self._lean(token_ids, positions, selected)
        self._past.positions = positions
        options: dict[str, Tensor] = {}
        if selected is not None and self._selects_logits:
            options["logits_to_keep"] = selected
        with running(step):
            output = self._model(
                input_ids=token_ids[None],
                position_ids=positions[None],
                past_key_values=self._past,
                use_cache=True,
                return_dict=True,
                **options,
            )
        logits: Tensor = output.logits[0]
        return logits[selected] if selected is not None and not self._selects_logits else logits

    @torch.inference_mode()
    def _learn_shapes(self) -> tuple[dict[nn.Module, LayerShape], int]:
        """What every attention layer stores, and the width of the logits, by running one token."""
        recorder = ShapeRecorder()
        first = torch.zeros(1, dtype=torch.long, device=self.device)
        name = type(self._model).__name__
        try:
            logits = self._call(recorder, first, first, None)
        except torch.OutOfMemoryError:
            raise
        except UnsupportedAttentionError as error:
            raise UnservableModelError(name, str(error)) from error
        except Exception as error:  # whatever a foreign model raises here, it cannot be served
            raise UnservableModelError(name, f"cannot run on packed rows ({type(error).__name__}: {error})") from error
        if not recorder.shapes:
            raise UnservableModelError(name, "has no attention layers")
        if self._exact_by_torch:
            refuse_inexact(name, recorder)
        return recorder.shapes, logits.shape[-1]


def _padded(numbers: Sequence[int]) -> list[int]:
    """A number for every row that linear layers are to see."""
    return [*numbers, *[0] * (pad_rows(len(numbers)) - len(numbers))]


def _wanted(chunk: Chunk) -> Sequence[int]:
    return range(len(chunk.token_ids)) if chunk.wanted is None else chunk.wanted
