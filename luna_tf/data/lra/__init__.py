"""The tasks of the Long Range Arena.

Importing this does not import TensorFlow.
"""

from luna_tf.data.lra.listops import Split, read_tsv
from luna_tf.data.lra.listops_cache import load_or_generate, load_tsv_folder
from luna_tf.data.lra.listops_generator import ListOpsConfig, generate

__all__ = [
    "ListOpsConfig",
    "Split",
    "generate",
    "load_or_generate",
    "load_tsv_folder",
    "read_tsv",
]
