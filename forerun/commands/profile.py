"""The zoo's target, as it is or at the cost of a larger model."""

from typing import Literal

from zoo.profiles import PROFILES, Dtype

Profile = Literal["plain", "deep", "wide"]


def target_of(profile: Profile) -> str:
    """The zoo's name of the target; "plain" is the model as it is."""
    return "zoo:target" if profile == "plain" else f"zoo:target@{profile}"


def dtype_of(profile: Profile) -> Dtype:
    """The number format that the target is written in; the plain one is served in float32."""
    return "float32" if profile == "plain" else PROFILES[profile].dtype


def target_in_words(profile: Profile) -> str:
    """How it is to be called wherever a time is reported."""
    return "the zoo's target" if profile == "plain" else f"the zoo's target, cost-padded ({profile})"
