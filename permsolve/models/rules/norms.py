"""Normalisations."""

from __future__ import annotations

from typing import Any

from permsolve.models.rules.registry import Call, rule
from permsolve.models.values import Value, axis_of


@rule("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def layer_norm(call: Call) -> Any:
    """Statistics over the last axes, then weight and bias of their shape."""
    x = call["input"]
    axes = list(range(len(x.shape)))
    inner = axes[len(axes) - len(call["normalized_shape"]) :]
    affine = [(value, inner) for name in ("weight", "bias") if (value := call.get(name)) is not None]
    return call.rest(call.algebra.join([(x, axes), *affine], axes, call.shape, within=set(inner)))


@rule("group_norm", "native_group_norm")
def group_norm(call: Call) -> Any:
    """Statistics over the channels of a group and all that follows."""
    x = call["input"]
    groups = int(call["num_groups"] if "num_groups" in call.args else call["group"])
    batch, channels, *rest = x.shape
    split = call.algebra.reshape(x, (batch, groups, channels // groups, *rest))
    axes = list(range(len(split.shape)))
    affine = [
        (call.algebra.reshape(value, (groups, channels // groups)), [1, 2])
        for name in ("weight", "bias")
        if (value := call.get(name)) is not None
    ]
    # A group's channels share statistics and stay in it. Groups of one channel bind nothing, as in an instance norm.
    hold = {0, 1} if channels > groups else {0}
    joined = call.algebra.join([(split, axes), *affine], axes, split.shape, hold=hold, within=set(axes[2:]))
    return call.rest(call.algebra.reshape(joined, x.shape))


def _per_channel(call: Call, first: int, stored: bool) -> Value:
    """Statistics over all axes from the first on but 1, or stored ones; one weight for each position of axis 1."""
    x = call["input"]
    axes = list(range(len(x.shape)))
    names = ("weight", "bias", "running_mean", "running_var")
    affine = [(value, [1]) for name in names if (value := call.get(name)) is not None]
    within = None if stored else {axis for axis in axes if axis >= first and axis != 1}
    return call.algebra.join([(x, axes), *affine], axes, call.shape, within=within)


@rule(
    *("batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit"),
    *("cudnn_batch_norm", "_batch_norm_with_update", "_batch_norm_no_update"),
)
def batch_norm(call: Call) -> Any:
    """Channel by channel on axis 1."""
    stored = call.name.endswith("no_training") or call.get("training") is False
    return call.rest(_per_channel(call, 0, stored and call.get("running_mean") is not None))


@rule("instance_norm")
def instance_norm(call: Call) -> Any:
    """Channel by channel and sample by sample."""
    return _per_channel(call, 2, call.get("use_input_stats") is False and call.get("running_mean") is not None)


@rule("_weight_norm")
def weight_norm(call: Call) -> Value:
    """A direction divided by its norms along all axes but one, times a length for each position of that one."""
    axes = range(len(call.shape))
    within = {axis for axis in axes if axis != axis_of(int(call.get("dim", 0)), len(axes))}
    return call.algebra.join([(call["v"], axes), (call["g"], axes)], axes, call.shape, within=within)
