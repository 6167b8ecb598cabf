"""Balanced assignment: every cluster takes equally many points, at least total cost."""

from __future__ import annotations

import numpy as np

from permsolve.kernels._jit import compiled


@compiled
def _reach(cost, point, clusters, size, prices, work):
    """Search from a point, cluster by cluster, for the nearest one with room; return it and its distance.

    ``work`` holds distances, the points by which clusters are reached, and the clusters settled on the way.
    """
    distance, origin, settled = work
    count = prices.shape[0]
    for c in range(count):
        distance[c] = cost[point, c] - prices[c]
        origin[c] = point
        settled[c] = False
    while True:
        near, least = -1, np.inf
        for c in range(count):
            if not settled[c] and distance[c] < least:
                near, least = c, distance[c]
        if size[near] < clusters.shape[1]:
            return near, least
        settled[near] = True
        for x in range(size[near]):
            member = clusters[near, x]
            offset = least - (cost[member, near] - prices[near])
            for c in range(count):
                through = cost[member, c] - prices[c] + offset
                if not settled[c] and through < distance[c]:
                    distance[c] = through
                    origin[c] = member


@compiled
def assign_balanced(cost, clusters, prices, halt):
    """Assign points to clusters of equal size at least total cost.

    It is the linear assignment in which every cluster stands there as often as it has places, without the repetition:
    points are placed one after the other, each by the cheapest chain of moves (successive shortest paths).

    Parameters
    ----------
    cost
        float64 (clusters * size, clusters): of every point in every cluster.
    clusters
        int64 (clusters, size), written: the points of each cluster.
    prices
        float64 (clusters,), written: what a place costs. No point would gain by moving at these prices, which proves
        the answer best.
    halt
        bool (1,): set from another thread to end early; what is written is then worthless.
    """
    count, places = clusters.shape
    owner = np.empty(cost.shape[0], dtype=np.int64)
    where = np.empty(cost.shape[0], dtype=np.int64)
    size = np.zeros(count, dtype=np.int64)
    work = (np.empty(count), np.empty(count, dtype=np.int64), np.empty(count, dtype=np.bool_))
    distance, origin, settled = work
    prices[:] = 0.0
    for point in range(count * places):
        if halt[0]:
            return
        end, least = _reach(cost, point, clusters, size, prices, work)
        for c in range(count):
            if settled[c]:
                prices[c] += distance[c] - least
        place = size[end]
        size[end] += 1
        while True:
            mover = origin[end]
            clusters[end, place] = mover
            if mover == point:
                owner[mover], where[mover] = end, place
                break
            before, left = owner[mover], where[mover]
            owner[mover], where[mover] = end, place
            end, place = before, left
