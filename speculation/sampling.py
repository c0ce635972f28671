"""How a request wants its tokens chosen: checked once, here, and the same for drafters and target."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from speculation.errors import InvalidRequestError

MAX_SEED = 2**64 - 1
MAX_TEMPERATURE = 100.0
MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParameters:
    """Every transform between the target's logits and the distribution that is sampled, and the seed.

    They apply in this order: repetition, presence and frequency penalty, logit bias, temperature, top-k, top-p, min-p
    (the order of transformers).

    Attributes:
        seed: Key of the noise; the same seed and prompt give the same text.
        temperature: 0 takes the likeliest token and ignores the filters and the seed.
        top_k: Keep the k likeliest tokens; 0 keeps all.
        top_p: Keep the smallest set of likeliest tokens whose probability reaches top_p, in (0, 1].
        min_p: Keep tokens at least min_p times as likely as the likeliest, in [0, 1].
        repetition_penalty: Divides positive and multiplies negative logits of tokens in prompt and answer; > 0.
        presence_penalty: Subtracted once from the logit of every token of the answer so far, in [-2, 2].
        frequency_penalty: Subtracted for each occurrence in the answer so far, in [-2, 2].
        logit_bias: Added to the logit of each token id.

    Raises:
        InvalidRequestError: A value is out of its range; the message names the field.
    """

    seed: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        _require("seed", 0 <= self.seed <= MAX_SEED, "must be an unsigned 64-bit number")
        _require("temperature", 0.0 <= self.temperature <= MAX_TEMPERATURE, f"must lie in [0, {MAX_TEMPERATURE:g}]")
        _require("top_k", self.top_k >= 0, "must be 0 (off) or positive")
        _require("top_p", 0.0 < self.top_p <= 1.0, "must lie in (0, 1]")
        _require("min_p", 0.0 <= self.min_p <= 1.0, "must lie in [0, 1]")
        _require(
            "repetition_penalty",
            self.repetition_penalty > 0.0 and math.isfinite(self.repetition_penalty),
            "must be positive",
        )
        _require("presence_penalty", -2.0 <= self.presence_penalty <= 2.0, "must lie in [-2, 2]")
        _require("frequency_penalty", -2.0 <= self.frequency_penalty <= 2.0, "must lie in [-2, 2]")
        for token, bias in self.logit_bias.items():
            _require("logit_bias", token >= 0, f"token id {token} is negative")
            _require("logit_bias", not math.isnan(bias) and bias != math.inf, f"the bias of token {token} is {bias}")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken, without noise."""
        return self.temperature == 0.0

    @property
    def filtered(self) -> bool:
        """Whether some tokens are not chosen for being unlikely."""
        return not self.greedy and (self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0)

    @property
    def depends_on_history(self) -> bool:
        """Whether a token's chance depends on which tokens came before beyond the model itself."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def check_vocabulary(self, vocab_size: int) -> None:
        """Refuse biases on tokens that the model does not have.

        Raises:
            InvalidRequestError: A token id is not below vocab_size.
        """
        for token in self.logit_bias:
            _require(
                "logit_bias", token < vocab_size, f"token id {token} is not below the vocabulary size {vocab_size}"
            )


def _require(name: str, holds: bool, problem: str) -> None:
    if not holds:
        raise InvalidRequestError(name, problem)
