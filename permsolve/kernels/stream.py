"""Streaming passes over all groups of wide matrices: no value is stored, 16-bit arithmetic, rounded the safe way.

For a prefix of m - 1 members with n-th largest entries t, a last member d adds ``sum_r max(S[r, d] - t_r, 0)``. In
units of a power of two, with S rounded up and t rounded down, saturating 16-bit subtraction and addition never give
less than the truth, so a group that they leave below its duals is below them; the others are hits, to be looked at in
integers.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from permsolve.kernels._jit import compiled
from permsolve.kernels.enumerate import prefix_base

#: Columns of a block: sums over rows stay in registers. 16-bit matrices have their columns padded to a multiple of it.
BLOCK = 128
#: Lanes of a vector in the code below; LLVM splits it into registers of the machine.
_LANES = 32


@intrinsic
def _sum_block(typingctx, raised, floors, first, rows, sums):
    """Write ``sum over r of saturating(raised[r, first + x] - floors[r])`` for BLOCK columns, saturating at 65535.

    Written as vector code: Numba's loops over rows inside columns leave the sums in memory, at half the speed.
    """
    signature = types.void(raised, floors, first, rows, sums)

    def codegen(context, builder, sig, args):
        matrix, levels, out = (context.make_array(sig.args[k])(context, builder, args[k]) for k in (0, 1, 4))
        lane = ir.IntType(16)
        vector = ir.VectorType(lane, _LANES)
        pointer = vector.as_pointer()
        shape = ir.FunctionType(vector, [vector, vector])
        subtract = builder.module.declare_intrinsic(f"llvm.usub.sat.v{_LANES}i16", (), shape)
        add = builder.module.declare_intrinsic(f"llvm.uadd.sat.v{_LANES}i16", (), shape)
        count = BLOCK // _LANES
        totals = [cgutils.alloca_once_value(builder, ir.Constant(vector, [0] * _LANES)) for _ in range(count)]
        for total in totals:  # the allocation happens once, the function may be inlined into a loop
            builder.store(ir.Constant(vector, [0] * _LANES), total)
        stride = cgutils.unpack_tuple(builder, matrix.strides, 2)[0]
        start = builder.add(
            builder.ptrtoint(matrix.data, stride.type), builder.mul(args[2], ir.Constant(stride.type, 2))
        )
        undefined = ir.Constant(vector, ir.Undefined)
        spread = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES)
        with cgutils.for_range(builder, args[3]) as loop:
            level = builder.load(builder.gep(levels.data, [loop.index]))
            broadcast = builder.insert_element(undefined, level, ir.Constant(ir.IntType(32), 0))
            broadcast = builder.shuffle_vector(broadcast, undefined, spread)
            row = builder.add(start, builder.mul(loop.index, stride))
            for k, total in enumerate(totals):
                at = builder.inttoptr(builder.add(row, ir.Constant(row.type, 2 * _LANES * k)), pointer)
                entry = builder.load(at, align=2)
                builder.store(
                    builder.call(add, [builder.load(total), builder.call(subtract, [entry, broadcast])]), total
                )
        base = builder.gep(out.data, [args[2]])
        for k, total in enumerate(totals):
            at = builder.bitcast(builder.gep(base, [ir.Constant(ir.IntType(64), _LANES * k)]), pointer)
            builder.store(builder.load(total), at, align=2)
        return context.get_dummy_value()

    return signature, codegen


@compiled
def _accumulate(raised, floors, first, sums):
    """Write the saturated sums over rows of what every last member from ``first`` on adds."""
    rows, cols = raised.shape
    at = cols - BLOCK
    while at + BLOCK > first:  # blocks end with the padded columns, so only the first one computes some in vain
        _sum_block(raised, floors, at, rows, sums)
        at -= BLOCK
        if at < 0:
            break


@compiled
def _extend(kept, depth, column, n):
    """Write the n largest of a prefix with one more member into kept[depth]; return their sum over rows."""
    rows = column.shape[0]
    total = np.int64(0)
    if depth == 0:
        for k in range(1, n):
            kept[0, k, :] = 0
        first = kept[0, 0]
        for r in range(rows):
            first[r] = column[r]
            total += column[r]
    elif n == 2:
        a0, a1, b0, b1 = kept[depth - 1, 0], kept[depth - 1, 1], kept[depth, 0], kept[depth, 1]
        for r in range(rows):
            value = column[r]
            largest = max(a0[r], value)
            second = max(a1[r], min(a0[r], value))
            b0[r] = largest
            b1[r] = second
            total += np.int64(largest) + np.int64(second)
    else:
        for r in range(rows):
            carry = column[r]
            for k in range(n):
                held = kept[depth - 1, k, r]
                kept[depth, k, r] = max(carry, held)
                total += max(carry, held)
                carry = min(carry, held)
    return total


@compiled
def hits_from(fine, raised, prices, coarse, first, second, last, n, m, groups):
    """Find the groups that may exceed their duals, among those with given smallest members.

    Parameters
    ----------
    fine
        int32 (cols, rows): the entries in a fine unit, rounded up, at least 0.
    raised
        uint16 (padded rows, padded cols): the entries in a unit of ``2**coarse`` fine ones, rounded up.
    prices
        int64 (cols,): the duals in the fine unit, rounded down.
    coarse
        Exponent of the coarse unit.
    first
        Smallest member.
    second, last
        The second smallest member goes from one to the other; for m = 2 they are ignored.
    n, m
        Keep n of every m.
    groups
        int16 (capacity, m): hits, written.

    Returns
    -------
    int
        How many hits there are, which may exceed the capacity: the surplus is counted and not stored.
    """
    cols, rows = fine.shape
    kept = np.zeros((m, n, rows), dtype=np.int32)
    floors = np.zeros(raised.shape[0], dtype=np.uint16)
    sums = np.empty(raised.shape[1], dtype=np.uint16)
    own = np.empty(cols, dtype=np.int32)
    for d in range(cols):
        own[d] = prices[d] >> coarse
    dearest = own.max()
    index = np.empty(m, dtype=np.int64)
    paid = np.zeros(m, dtype=np.int64)
    found = 0
    index[0] = first
    paid[0] = prices[first]
    base = _extend(kept, 0, fine[first], n)
    depth = 0
    if m > 2:
        index[1] = second - 1
        depth = 1
    while True:
        if depth > 0:
            index[depth] += 1
            if index[depth] > cols - m + depth or (depth == 1 and index[1] > last):
                depth -= 1
                if depth == 0:
                    break
                continue
            paid[depth] = paid[depth - 1] + prices[index[depth]]
            base = _extend(kept, depth, fine[index[depth]], n)
            if depth < m - 2:
                index[depth + 1] = index[depth]
                depth += 1
                continue
        level = kept[depth, n - 1]
        for r in range(rows):  # one less, and rounded down by the shift: at most the true entry
            floors[r] = np.uint16(max(level[r] - np.int32(1), np.int32(0)) >> np.int32(coarse))
        start = index[m - 2] + 1
        _accumulate(raised, floors, start, sums)
        # Rounded down; and a saturated sum must always be a hit.
        least = np.int32(max(min((paid[m - 2] - base) >> coarse, 65535 - dearest), -(2**30)))
        top = np.int32(-(2**31))
        bought = own[start:]
        for d in range(cols - start):
            top = max(top, np.int32(np.int32(sums[start + d]) - bought[d]))
        if top >= least:
            for d in range(cols - start):
                if np.int32(sums[start + d]) - bought[d] >= least:
                    if found < groups.shape[0]:
                        for k in range(m - 1):
                            groups[found, k] = index[k]
                        groups[found, m - 1] = start + d
                    found += 1
        if depth == 0:
            break
    return found


@compiled
def ascend(columns, duals, n, groups, costs):
    """Raise the reduced costs of groups by exchanging one member at a time for the best column, while any helps.

    The first member stays, so that every column finds good groups for itself.

    Parameters
    ----------
    columns
        Integer-valued float64 (cols, rows).
    duals
        Integer-valued float64 (cols,).
    n
        Entries kept per row.
    groups
        int64 (count, m): where to start; changed in place to local optima.
    costs
        float64 (count,): their reduced costs, written.
    """
    cols, rows = columns.shape
    count, m = groups.shape
    kept = np.zeros((m, n, rows))
    for k in range(count):
        group = groups[k]
        idle = 0
        slot = 1
        while idle < m - 1:
            base = 0.0
            depth = 0
            for x in range(m):
                if x != slot:
                    base = prefix_base(kept, depth, columns[group[x]], n)
                    depth += 1
            level = kept[depth - 1, n - 1]
            best = -np.inf
            winner = group[slot]
            for d in range(cols):
                column = columns[d]
                gain = 0.0
                for r in range(rows):
                    gain += max(column[r] - level[r], 0.0)
                gain -= duals[d]
                if gain > best:
                    free = True
                    for x in range(m):
                        if x != slot and group[x] == d:
                            free = False
                    if free:
                        best = gain
                        winner = d
            paid = 0.0
            for x in range(m):
                if x != slot:
                    paid += duals[group[x]]
            costs[k] = base + best - paid
            idle = idle + 1 if winner == group[slot] else 1
            group[slot] = winner
            slot = slot + 1 if slot + 1 < m else 1
