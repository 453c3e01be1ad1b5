"""Figures and reports from arrays: luna_tf's pictures."""

from luna_tf.visualize.attention import (
    attention_over_images,
    attention_over_tokens,
)
from luna_tf.visualize.comparison import comparison_curves
from luna_tf.visualize.curves import training_curves

__all__ = [
    "attention_over_images",
    "attention_over_tokens",
    "comparison_curves",
    "training_curves",
]
