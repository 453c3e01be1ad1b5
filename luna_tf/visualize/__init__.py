"""Figures and reports from arrays: luna_tf's pictures.

`luna_tf.visualize.tensorboard` writes figures while a model trains; it is a
module of its own because it imports Keras.
"""

from luna_tf.visualize.attention import (
    attention_over_images,
    attention_over_tokens,
)
from luna_tf.visualize.attention_heads import attention_per_head
from luna_tf.visualize.comparison import comparison_curves
from luna_tf.visualize.curves import training_curves
from luna_tf.visualize.growth import growth_from_csv, growth_plot

__all__ = [
    "attention_over_images",
    "attention_over_tokens",
    "attention_per_head",
    "comparison_curves",
    "growth_from_csv",
    "growth_plot",
    "training_curves",
]
