"""Figures from arrays: every function returns a matplotlib figure."""

from luna_tf.visualize.curves import training_curves

__all__ = ["training_curves"]
