"""What this toolkit's kernels reach on a CPU, with external operations and without."""

from __future__ import annotations

from dataclasses import replace

from paddlenlp.nn.external import is_built

from .activations import kernels_of
from .hardware import Hardware
from .layout import Layout
from .stage_times import Engine

FUSED = 1.0
"""Speed of the products, and of attention, of external_ops in training over that of the fastest product timed alone:
one run of each shape of benchmarks/cpu came within 1 % of what follows."""

PLAIN = 0.9
"""The same of products without external_ops: taken from one run of shape A, which it puts 8 % too low."""

PLAIN_ATTENTION = 0.5
"""The same of the attention of nn/cpu, a product and a softmax for each block."""


def engine_on(hw: Hardware, layout: Layout, engine: Engine) -> Engine:
    """`engine`, or on a CPU what runs there: external operations that are installed and not turned off, as
    `nn.kernels` would choose. Whether they give what the plain ones give is found out by the run itself."""
    if not hw.is_cpu:
        return engine
    chosen, products = kernels_of(layout, "cpu"), is_built("fused_layers") and "use_fused_linear" in layout.kernels
    return replace(
        engine,
        pace=FUSED if products else PLAIN,
        cpu_attention=FUSED if chosen["attention"] == "external" else PLAIN_ATTENTION,
        logits_stored=chosen["head_loss"] != "external",
    )
