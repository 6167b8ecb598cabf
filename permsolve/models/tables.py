"""Tables of plans for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from permsolve.models.sides import side_of

if TYPE_CHECKING:
    from permsolve.models.plan import Plan

#: Names listed for one reason.
_NAMED = 3


def plan_table(plan: Plan) -> str:
    """Return what a plan permutes and what not, as text.

    Parameters
    ----------
    plan
        The plan.

    Returns
    -------
    str
        Lines of a table.
    """
    share = 100 * plan.gaining / plan.parameters if plan.parameters else 0.0
    lines = [
        f"{plan.model}, {plan.nm}: {len(plan.groups)} groups, {len(plan.gainers)} weights gain: "
        f"{plan.gaining:,} of {plan.parameters:,} parameters ({share:.1f} %)"
    ]
    rows: list[Sequence[str]] = [("group", "channels", side_of(plan.nm).lines, "gain", "follow", "efficacy %")]
    for group in plan.groups:
        channels = str(group.channels)
        if len(group.blocks) > 1:
            same = len(set(group.blocks)) == 1
            channels = f"{len(group.blocks)} x {group.blocks[0]}" if same else "+".join(map(str, group.blocks))
        efficacy = "-" if group.solution is None else "own" if group.result is None else f"{group.result.efficacy:.2f}"
        moved = len(group.producers) + len(group.followers) + len(group.indices)
        indices = len(group.indices)
        name = group.name + (f" ({indices} {'index' if indices == 1 else 'indices'})" if indices else "")
        rows.append((name, channels, f"{sum(group.lines):,}", str(len(group.gainers)), str(moved), efficacy))
    if plan.groups:
        lines += _aligned(rows)
    if plan.frozen:
        lines.append(f"{len(plan.frozen)} weights stay as they are:")
        by_reason: dict[str, list[str]] = {}
        for each in plan.frozen:
            by_reason.setdefault(each.reason, []).append(each.name)
        for reason, names in by_reason.items():
            lines.append(f"  {len(names)}: {reason}")
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            lines.append(f"     {', '.join(names[:_NAMED])}{more}")
    if plan.unknown:
        listed = ", ".join(f"{name} ({count})" for name, count in Counter(plan.unknown).most_common())
        lines.append(f"operators without a rule that channels met: {listed}")
    return "\n".join(lines)


def _aligned(rows: list[Sequence[str]]) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(widths[k]) for k, cell in enumerate(row[1:], start=1))]
        lines.append("  " + "  ".join(cells))
    return lines
