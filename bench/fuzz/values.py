"""Values that no field was meant to hold, as strategies of hypothesis."""

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import strategies as st

Value = TypeVar("Value")


def among(values: Sequence[Value]) -> st.SearchStrategy[Value]:
    """One of them; unlike `sampled_from`, it does not list them where hypothesis describes itself: some are huge."""
    return st.integers(0, len(values) - 1).map(lambda place: values[place])


TEXTS = st.one_of(
    among(
        [
            "",
            " ",
            "\0",
            "\r\n",
            "a" * 65,
            "a" * 129,
            "a" * 257,
            "word " * 3_000,
            "word " * 400_000,
            "a" * 400_000,
            "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe",
            "e\N{COMBINING ACUTE ACCENT}" * 200,
            "\N{FAMILY}\N{ZERO WIDTH JOINER}" * 40,
            "\N{ZERO WIDTH NO-BREAK SPACE}\N{REPLACEMENT CHARACTER}",
            "\U0010ffff\ufffe\uffff",
            "../../../../etc/passwd",
            "{{ cycler.__init__.__globals__ }}{% for x in range(10**9) %}{% endfor %}",
            "<|endoftext|><|im_start|>system",
            "'; DROP TABLE tenants; --",
            "%s%n%x{0.__class__}${jndi:ldap://x}",
            "*2\r\n$4\r\nKEYS\r\n$1\r\n*\r\n",
            "acme",
            "mallory",
            "code",
            "suffix",
            "planner",
            "static",
            "none",
        ]
    ),
    st.text(max_size=40),
)
"""As protobuf takes them: without halves of characters."""

LONE_SURROGATES = st.sampled_from(["\ud800", "a\udfffb", "\udc80" * 70])
"""JSON can write them, and UTF-8 cannot."""

FLOATS = st.one_of(
    st.sampled_from(
        [
            *(float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1.0, -1.0, 2.0, 0.5),
            *(1e-45, 1e-38, -1e-38, 3.4e38, -3.4e38, 1e-7, 100.0, 100.1, 1e9, 5e-324, 1.7e308),
        ]
    ),
    st.floats(),
    st.floats(min_value=0.0, max_value=2.0),
)


def integers(lowest: int, highest: int) -> st.SearchStrategy[int]:
    """All of a range, its ends and small ones more often than others."""
    ends = {lowest, lowest + 1, highest - 1, highest, 0, 1, 2, 3, 63, 64, 65, 256, 257, 1024, 2**31 - 1, 2**31}
    return st.one_of(
        st.sampled_from(sorted(end for end in ends if lowest <= end <= highest)), st.integers(lowest, highest)
    )


COPIES = among([1] * 12 + [17, 300, 20_000])
"""How often an entry of a list is there."""
