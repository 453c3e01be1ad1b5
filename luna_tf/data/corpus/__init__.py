"""Text corpora: documents, token rows, hidden tokens.

From files to batches in five steps, each a module: `files` finds and probes
them, `documents` divides them, `rows` tokenizes and cuts, `prepared` keeps the
result as TFRecord files, and `masking` hides tokens, anew each time a row is
seen.
"""

from luna_tf.data.corpus.batches import gather_rows, mask_rows, masked_stream
from luna_tf.data.corpus.documents import divide, explained, read_documents
from luna_tf.data.corpus.files import (
    CorpusError,
    CorpusFiles,
    check_whole,
    find_files,
)
from luna_tf.data.corpus.masking import Masking
from luna_tf.data.corpus.prepared import PreparedCorpus, prepare
from luna_tf.data.corpus.rows import RowFormat, token_rows
from luna_tf.data.corpus.sample import sample_path
from luna_tf.data.corpus.vocabulary import learn_vocabulary

__all__ = [
    "CorpusError",
    "CorpusFiles",
    "Masking",
    "PreparedCorpus",
    "RowFormat",
    "check_whole",
    "divide",
    "explained",
    "find_files",
    "gather_rows",
    "learn_vocabulary",
    "mask_rows",
    "masked_stream",
    "prepare",
    "read_documents",
    "sample_path",
    "token_rows",
]
