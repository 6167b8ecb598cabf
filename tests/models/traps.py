"""Minimal models of everything that a careless analysis gets wrong.

``TRAPS`` maps names to traps; ``TRAPS[name].build(seed)`` returns a model in eval mode and its inputs, and
``expectation`` says what a correct analysis finds about the input axis of ``weight``.
"""

from __future__ import annotations

from trap_parts import EITHER, FREE, FROZEN, Trap
from traps_attention import ATTENTION_TRAPS
from traps_channels import CHANNEL_TRAPS
from traps_joined import JOINED_TRAPS
from traps_parameters import PARAMETER_TRAPS
from traps_weights import WEIGHT_TRAPS
from traps_wiring import WIRING_TRAPS

__all__ = ["CORE", "EITHER", "FREE", "FROZEN", "TRAPS", "Trap"]

_ALL = [*CHANNEL_TRAPS, *ATTENTION_TRAPS, *WIRING_TRAPS, *JOINED_TRAPS, *PARAMETER_TRAPS, *WEIGHT_TRAPS]
TRAPS = {trap.name: trap for trap in _ALL}
assert len(TRAPS) == len(_ALL), "two traps bear the same name"

# The cases that tools are known to get wrong, for a quick look; the others ask the same questions in other words.
CORE = """
    channel_shuffle flip_channels roll_channels chunk_then_swap times_first_channel cumsum_channels softmax_channels
    group_norm local_response_norm glu arange_per_channel sort_channels topk_channels gather_by_argsort
    gather_by_constant index_select index_with_repeats masked_fill masked_fill_by_channel set_slice pixel_shuffle unfold
    roll_tokens fft_channels complex_modulus rotary_pairs gram_of_channels gram_flattened einsum_consumer
    argmax_as_output token_mixing token_mixing_between token_mixing_square transposed slice_of_channels view_misaligned
    attention_plain attention_causal attention_rotary attention_rotary_interleaved attention_rotary_values
    attention_grouped_interleaved attention_grouped_expanded attention_fused_chunked attention_fused_by_head
    attention_not_transposed_back attention_values_are_rotated_keys attention_cache_is_output attention_cache_is_input
    late_sum late_product late_second_input late_cat late_where shared_with_input late_mean hidden_is_output
    hidden_in_dict residual_output ends_in_cat ends_in_cat_of_layers hidden_sum_is_output called_twice called_in_loop
    called_on_two_branches called_on_flipped norm_shared activation_shared same_layer_two_names cat_negative_dim
    cat_keywords cat_misaligned cat_twice_the_same cat_of_other_cut stack_then_flatten flatten_9_positions
    flatten_4_positions flatten_beside_conv flatten_with_height flatten_channels_last unflatten names_by_punctuation
    branch_on_data loop_on_data torch_cond no_grad_region forward_hook casts_to_float32 add_c11 add_1c add_c
    multiply_scalar add_square add_square_transposed times_square times_square_and_diagonal times_lower_triangle
    buffer_c buffer_not_saved attribute_constant buffer_mask buffer_index prelu batch_norm_rows batch_norm_1d
    batch_norm_2d batch_norm_3d batch_norm_training sync_batch_norm frozen_batch_norm instance_norm_1d instance_norm_2d
    instance_norm_3d layer_norm rms_norm rms_norm_by_hand batch_norm_over_tokens embedding_tied embedding_tied_residual
    tied_transposed tied_square tied_square_behind memory_aliased memory_flat state_of_channels weight_sliced_columns
    weight_sliced_rows weight_square_masked weight_norm lstm depthwise grouped grouped_narrow transposed_between
    transposed_grouped transposed_2d transposed_square unbatched
""".split()  # noqa: SIM905 (a list of 150 strings is 150 lines)
assert set(CORE) <= set(TRAPS)
