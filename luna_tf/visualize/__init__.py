"""Figures from arrays: every function returns a matplotlib figure."""

from luna_tf.visualize.comparison import comparison_curves
from luna_tf.visualize.curves import training_curves

__all__ = ["comparison_curves", "training_curves"]
