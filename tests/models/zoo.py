"""Small models of all families, with every parameter random: what an analysis should cope with.

``ZOO`` maps names to specimens; ``ZOO[name].build(seed)`` returns a model in eval mode and its example inputs.
"""

from __future__ import annotations

from zoo_cnn import CNNS
from zoo_nets import NETS
from zoo_parts import Inputs, Specimen, call, doubled, randomise
from zoo_transformers import TRANSFORMERS

__all__ = ["ZOO", "Inputs", "Specimen", "call", "doubled", "randomise"]

ZOO = {specimen.name: specimen for specimen in [*CNNS, *NETS, *TRANSFORMERS]}
