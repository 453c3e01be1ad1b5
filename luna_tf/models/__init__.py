"""Models: layers wired together."""

from luna_tf.models.lra_classifier import LRAClassifier

__all__ = ["LRAClassifier"]
