"""The tasks of the Long Range Arena: generators, readers, batches.

Start with `splits` (what examples are in memory) and `batches` (what a model
sees of them). Between files and memory stand, for each task, `listops` and
`listops_*`, `text`, `retrieval`, `images` and `images_*`, and
`pathfinder_*`; they share `labelled` (classes, blocks, complaints) and
`data_cache`. `man_pages` and `pathfinder_generator` make data. `baselines` and
`published` are what results are compared with.

Importing this does not import TensorFlow.
"""

from luna_tf.data.lra.images import load_images
from luna_tf.data.lra.labelled import LabelledSplits
from luna_tf.data.lra.listops import Split, read_tsv
from luna_tf.data.lra.listops_cache import load_or_generate, load_tsv_folder
from luna_tf.data.lra.listops_generator import ListOpsConfig, generate
from luna_tf.data.lra.pathfinder_files import (
    load_pathfinder_folder,
    write_pathfinder_folder,
)
from luna_tf.data.lra.pathfinder_generator import PathfinderConfig
from luna_tf.data.lra.pathfinder_records import load_or_generate_pathfinder
from luna_tf.data.lra.retrieval import load_retrieval
from luna_tf.data.lra.splits import ImageSplit, Sequences, TextSplit
from luna_tf.data.lra.text import load_text

__all__ = [
    "ImageSplit",
    "LabelledSplits",
    "ListOpsConfig",
    "PathfinderConfig",
    "Sequences",
    "Split",
    "TextSplit",
    "generate",
    "load_images",
    "load_or_generate",
    "load_or_generate_pathfinder",
    "load_pathfinder_folder",
    "load_retrieval",
    "load_text",
    "load_tsv_folder",
    "read_tsv",
    "write_pathfinder_folder",
]
