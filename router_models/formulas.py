"""What a plan is worked out by: hazards, what shapes bring at them, what that costs, and which choice is the fastest.

Compiled (speculation/compiled.py). Who chooses what goes in and what comes of it: acceptance_model.py, forecast.py,
cost_model.py, planner.py.
"""

from math import exp, hypot, log, sqrt

import numpy as np
from numpy.typing import NDArray

from speculation.compiled import compiled

Array = NDArray[np.float64]
Places = NDArray[np.int64]

CLASS_ENDS = (1, 2, 4, 8)
"""Last rank of each class: the 1st candidate, the 2nd, the 3rd and 4th, the 5th to 8th."""

MIN_RATE, MAX_RATE = 1e-4, 0.995
"""Hazards are kept within these, so that powers and logarithms of theirs are harmless."""

LEAST_MS = 1e-3
"""No draft is thought to be quicker."""


@compiled("f8[:,:,::1](f8[:,:,::1], i8[:,::1], f8[::1], f8[::1])")
def expected_hazards(counts: Array, rows: Places, strengths: Array, prior: Array) -> Array:
    """Means of Beta posteriors, each level's prior being the mean of the level above.

    Args:
        counts: (contexts, 2, classes) hits and trials.
        rows: (paths, levels) contexts, from the coarsest to the finest.
        strengths: (levels,) observations that the level above is worth.
        prior: (classes,) of the coarsest level.

    Returns:
        (2, paths, classes): as expected, and with first candidates that are likelier by a standard deviation.
    """
    paths, levels = rows.shape
    hazards = np.empty((2, paths, len(prior)))
    for path in range(paths):
        for number in range(len(prior)):
            mean, total = prior[number], 1.0
            for level in range(levels):
                hits, trials = counts[rows[path, level], 0, number], counts[rows[path, level], 1, number]
                total = trials + strengths[level]
                mean = (hits + strengths[level] * mean) / total
            hazards[0, path, number] = mean
            hazards[1, path, number] = mean if number else mean + sqrt(mean * (1.0 - mean) / (total + 1.0))
    return hazards


@compiled("void(f8[:,:,::1], i8, f8[:,::1], f8)")
def remember(counts: Array, row: int, seen: Array, memory: float) -> None:
    """Take in what was seen in a context, and forget as much of what was seen before.

    Args:
        counts: (contexts, 2, classes) hits and trials; one row of it is changed.
        row: Of the context.
        seen: (2, classes).
        memory: Trials after which an old one counts 1/e.
    """
    for number in range(counts.shape[2]):
        kept = exp(-seen[1, number] / memory)
        for kind in range(2):
            counts[row, kind, number] = counts[row, kind, number] * kept + seen[kind, number]


@compiled("f8(f8, f8)")
def chain_accepted(rate: float, length: float) -> float:
    """Expected accepted tokens of a chain: the sum of the powers of the rate, up to a length that need not be whole.

    Args:
        rate: Within MIN_RATE and MAX_RATE.
        length: In nodes.
    """
    accepted: float = (1.0 - rate**length) * (rate / (1.0 - rate))
    return accepted


@compiled("f8[::1](f8[::1])")
def rank_probabilities(hazards: Array) -> Array:
    """(classes,) hazards to (ranks,) probabilities; within a class all ranks are taken to be alike."""
    per_rank = np.empty(CLASS_ENDS[-1])
    begin, left = 0, 1.0
    for number in range(len(CLASS_ENDS)):
        end = CLASS_ENDS[number]
        per_rank[begin:end] = left * hazards[number] / (end - begin)
        begin, left = end, left * (1.0 - hazards[number])
    return per_rank


@compiled("f8[::1](f8[::1], i8[::1], i8[::1], f8[:,::1])")
def trees_accepted(per_rank: Array, parents: Places, ranks: Places, members: Array) -> Array:
    """Expected accepted tokens of trees: a node counts if it is reached, which is if every rank on its path is taken.

    Args:
        per_rank: (ranks,) probabilities.
        parents: (nodes,) of one trie that holds all trees, parents first; -1 is its root.
        ranks: (nodes,) of each among its siblings.
        members: (nodes, trees) 1 where a node is in a tree.

    Returns:
        (trees,)
    """
    reached = np.empty(len(parents))
    accepted = np.zeros(members.shape[1])
    for node in range(len(parents)):
        above = reached[parents[node]] if parents[node] >= 0 else 1.0
        reached[node] = above * per_rank[ranks[node]]
        for tree in range(len(accepted)):
            accepted[tree] += reached[node] * members[node, tree]
    return accepted


@compiled(
    "Tuple((f8[:,:,::1], f8[:,::1], f8[:,::1]))"
    "(f8[:,:,::1], f8[::1], f8[::1], f8[::1], i8[::1], i8[::1], i8[::1], f8[:,::1])"
)
def forecast(
    truths: Array,
    depth: Array,
    log_least: Array,
    budget: Array,
    trees: Places,
    parents: Places,
    ranks: Places,
    members: Array,
) -> tuple[Array, Array, Array]:
    """What shapes bring if some hazards are true, drafted by those who believe in the first of them.

    Args:
        truths: (truths, paths, classes) hazards.
        depth: (shapes,) most levels.
        log_least: (shapes,) logarithm of the confidence below which nothing is drafted.
        budget: (shapes,) nodes of a tree.
        trees: Which shapes are trees; all others are chains.
        parents: As in `trees_accepted`, and so the next two.

    Returns:
        (truths, paths, shapes) accepted tokens; (paths, shapes) levels, and nodes.
    """
    truths = np.minimum(np.maximum(truths, MIN_RATE), MAX_RATE)
    accepted = np.empty((truths.shape[0], truths.shape[1], len(depth)))
    levels, nodes = np.empty(accepted.shape[1:]), np.empty(accepted.shape[1:])
    for path in range(truths.shape[1]):
        log_rate = log(truths[0, path, 0])
        for shape in range(len(depth)):
            # A chain that doubt does not end is as long as may be: the logarithm of no confidence is minus infinity.
            length = min(log_least[shape] / log_rate, depth[shape])
            levels[path, shape], nodes[path, shape] = min(length + 1.0, depth[shape]), length
            for truth in range(len(truths)):
                accepted[truth, path, shape] = chain_accepted(truths[truth, path, 0], length)
        for truth in range(len(truths)):
            of_trees = trees_accepted(rank_probabilities(truths[truth, path]), parents, ranks, members)
            for place in range(len(trees)):
                accepted[truth, path, trees[place]] = of_trees[place]
        for shape in trees:
            levels[path, shape], nodes[path, shape] = depth[shape], budget[shape]
    return accepted, levels, nodes


@compiled("UniTuple(f8[:,::1], 2)(f8[:,:,::1], f8[:,:,::1], f8, f8, f8)")
def doubts(accepted: Array, corrections: Array, sharpness: float, alike: float, unalike: float) -> tuple[Array, Array]:
    """Two independent standard deviations of accepted tokens over their mean: what all shapes of a drafter share, and
    what is each one's own.

    Args:
        accepted: (2, drafters, shapes) as expected, and if first candidates are likelier by a standard deviation.
        corrections: (drafters, shapes, 4), the last the standard deviation of the corrected ratio.
        sharpness: Times what was seen that doubts about rates are drawn as if had been seen.
        alike: What of the doubts of corrections is shared.
        unalike: What is not.
    """
    _, drafters, shapes = accepted.shape
    shared, own = np.empty((drafters, shapes)), np.empty((drafters, shapes))
    for drafter in range(drafters):
        for shape in range(shapes):
            by_rate = (accepted[1, drafter, shape] / accepted[0, drafter, shape] - 1.0) / sqrt(sharpness)
            by_shape = corrections[drafter, shape, 3]
            shared[drafter, shape] = hypot(by_rate, alike * by_shape)
            own[drafter, shape] = unalike * by_shape
    return shared, own


@compiled("f8[:,::1](f8[:,::1], f8[::1], f8[:,::1], f8[:,::1])")
def draft_ms(weights: Array, unread: Array, levels: Array, nodes: Array) -> Array:
    """(drafters, shapes) milliseconds.

    Args:
        weights: (drafters, 4) milliseconds per draft, level, node and token to be read first.
        unread: (drafters,) such tokens.
        levels: (drafters, shapes) that the drafter forwards.
        nodes: (drafters, shapes) that it gives.
    """
    drafters, shapes = levels.shape
    cost_ms = np.empty((drafters, shapes))
    for drafter in range(drafters):
        fixed, level, node, token = weights[drafter]
        first = fixed + token * unread[drafter]
        for shape in range(shapes):
            ms = first + level * levels[drafter, shape] + node * nodes[drafter, shape]
            cost_ms[drafter, shape] = max(ms, LEAST_MS)
    return cost_ms


@compiled("Tuple((i8[::1], f8[::1]))(f8[:,::1], f8[:,::1], f8[:,::1], f8[:,::1], f8[:,::1], f8[:,:,::1], f8)")
def fastest(
    gains: Array, accepted: Array, shared: Array, own: Array, costs_ms: Array, drawn: Array, exploration: float
) -> tuple[Places, Array]:
    """The fastest choice under every posterior draw: its place, and its tokens a millisecond.

    What is drawn may be less than no tokens: that is slower than plain decoding, as no tokens would be.

    Args:
        gains: (drafters, shapes) expected tokens.
        accepted: (drafters, shapes) of them the drafter's, which are doubted.
        shared: As `doubts` gives them, like the next.
        costs_ms: (drafters, shapes).
        drawn: (draws, drafters, 1 + shapes) standard normal: of what a drafter's shapes share, and of each.
        exploration: The share of the doubts that is drawn from.

    Returns:
        (draws,) places in (drafters, shapes), the first of equals; (draws,) speeds.
    """
    drafters, shapes = gains.shape
    places, speeds = np.zeros(len(drawn), np.int64), np.full(len(drawn), -np.inf)
    for drafter in range(drafters):
        for shape in range(shapes):
            speed = gains[drafter, shape] / costs_ms[drafter, shape]
            doubted = exploration * accepted[drafter, shape] / costs_ms[drafter, shape]
            of_shared, of_own = doubted * shared[drafter, shape], doubted * own[drafter, shape]
            for draw in range(len(drawn)):
                normals = drawn[draw, drafter]
                drawn_speed = speed + of_shared * normals[0] + of_own * normals[1 + shape]
                if drawn_speed > speeds[draw]:
                    places[draw], speeds[draw] = drafter * shapes + shape, drawn_speed
    return places, speeds
