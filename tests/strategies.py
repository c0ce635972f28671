"""What hypothesis draws: trees, distributions, sampling parameters."""

from hypothesis import strategies as st

from speculation.sampling import SamplingParameters
from speculation.tree import ROOT, TokenTree

SMALL_VOCABULARY = 6
"""Few tokens, so that drawn trees share paths and drawn targets hit them."""


@st.composite
def trees(draw: st.DrawFn, *, max_nodes: int = 12, vocab_size: int = SMALL_VOCABULARY) -> TokenTree:
    """Trees of up to max_nodes nodes; siblings may carry the same token."""
    count = draw(st.integers(0, max_nodes))
    return TokenTree(
        token_ids=tuple(draw(st.integers(0, vocab_size - 1)) for _ in range(count)),
        parents=tuple(draw(st.integers(ROOT, node - 1)) for node in range(count)),
        confidences=tuple(draw(st.floats(0, 1, width=32)) for _ in range(count)),
    )


def sampling_parameters() -> st.SearchStrategy[SamplingParameters]:
    """Valid parameters over the whole range of each field."""
    return st.builds(
        SamplingParameters,
        seed=st.integers(0, 2**64 - 1),
        temperature=st.floats(0, 100, width=32),
        top_k=st.integers(0, 2**31),
        top_p=st.floats(0.0009765625, 1, width=32),
        min_p=st.floats(0, 1, width=32),
        repetition_penalty=st.floats(0.0009765625, 1000, width=32),
        presence_penalty=st.floats(-2, 2, width=32),
        frequency_penalty=st.floats(-2, 2, width=32),
        logit_bias=st.dictionaries(st.integers(0, 2**31), st.floats(-1000, 1000, width=32), max_size=4),
    )
