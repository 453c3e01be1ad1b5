"""A corpus as token rows in TFRecord files, tokenized once.

A prepared corpus is a folder with one file of rows for each input file and
split, such as `train-00003.tfrecord`, and `00003.json` beside them, which is
written last and counts what they hold. `dataset.json` tells what the rows were
made from. Preparing that is stopped goes on with the file where it was.

A record is a row without its padding: token ids as little-endian unsigned
integers of 2 bytes, or of 4 where the vocabulary needs them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from luna_tf.data.corpus.documents import divide, explained, read_documents
from luna_tf.data.corpus.files import CorpusError, CorpusFiles, check_whole
from luna_tf.data.corpus.rows import RowFormat, token_rows

SPLITS = ("train", "validation", "test")
_DESCRIPTION = "dataset.json"
_BATCH = 256


@dataclasses.dataclass(frozen=True)
class PreparedCorpus:
    """Rows in files.

    Args:
        folder: where they lie.
        form: how documents became rows.
        id_bytes: size of a token id, 2 or 4.
        counts: split to the numbers of its `rows` and `tokens`, special ones
            included.
        files: split to the files with at least one row.
    """

    folder: str
    form: RowFormat
    id_bytes: int
    counts: Mapping[str, Mapping[str, int]]
    files: Mapping[str, tuple[str, ...]]

    def rows(self, split: str, limit: int | None = None) -> np.ndarray:
        """Reads the rows of a split into memory.

        Args:
            split: one of `SPLITS`.
            limit: at most so many, evenly from all files; None: all.

        Returns:
            uint16 or int32 `(rows, length)`, padded.

        Raises:
            CorpusError: a file is damaged, or has not the rows that were
                counted.
        """
        total = self.counts[split]["rows"]
        dtype = np.uint16 if self.id_bytes == 2 else np.int32
        rows = np.full((total, self.form.length), self.form.pad_id, dtype)
        found = 0
        with explained():
            for record in tf.data.TFRecordDataset(
                list(self.files[split])
            ).as_numpy_iterator():
                ids = np.frombuffer(record, f"<u{self.id_bytes}")
                if found < total and len(ids) <= self.form.length:
                    rows[found, : len(ids)] = ids
                found += 1
        if found != total:
            raise CorpusError(
                f"{self.folder} has {found:,} rows of the split {split!r}, but "
                f"{total:,} were counted: remove it, and it is made anew."
            )
        if limit is None or limit >= total:
            return rows
        return rows[np.arange(limit) * total // limit]

    def dataset(
        self, split: str, seed: int, worker: int = 0, num_workers: int = 1
    ) -> tf.data.Dataset:
        """The rows of a split, again and again.

        Args:
            split: one of `SPLITS`.
            seed: of the order of the files, which is another one each time.
            worker, num_workers: of which worker of how many. Each reads files
                of its own where there are as many, else rows of its own.

        Returns:
            An endless dataset of int32 `(length,)`, padded.
        """
        paths = list(self.files[split])
        by_file = len(paths) >= num_workers
        if by_file:
            paths = paths[worker::num_workers]
        files = tf.data.Dataset.from_tensor_slices(paths)
        files = files.shuffle(len(paths), seed=seed).repeat()
        # No more at a time than there are, or the next epoch would begin.
        rows = self._read(files, min(8, len(paths)))
        return rows if by_file else rows.shard(num_workers, worker)

    def _read(self, files: tf.data.Dataset, at_a_time: int) -> tf.data.Dataset:
        kind = tf.uint16 if self.id_bytes == 2 else tf.int32
        length = self.form.length

        def parse(record: tf.Tensor) -> tf.Tensor:
            ids = tf.cast(tf.io.decode_raw(record, kind), tf.int32)
            ids = tf.pad(
                ids,
                [[0, length - tf.size(ids)]],
                constant_values=self.form.pad_id,
            )
            return tf.ensure_shape(ids, [length])

        records = files.interleave(
            tf.data.TFRecordDataset,
            cycle_length=at_a_time,
            block_length=8,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return records.map(
            parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )


def prepare(
    files: CorpusFiles,
    folder: str,
    tokenize: Callable[[tf.Tensor], tf.RaggedTensor],
    form: RowFormat,
    vocabulary_size: int,
    made_from: Mapping[str, Any],
    fractions: Mapping[str, float] | None = None,
    with_train: bool = True,
    on_progress: Callable[[int, int, int], Any] | None = None,
    **reading: Any,
) -> PreparedCorpus:
    """Tokenizes a corpus into a folder, or finds it there.

    Args:
        files: from `find_files`.
        folder: parent of the folder to write, which is named by a hash of
            everything that decides its content; `gs://` included.
        tokenize: see `token_rows`.
        form: how documents become rows.
        vocabulary_size: number of token ids.
        made_from: what else decides the rows, fit for JSON: above all
            something that changes with the tokenizer.
        fractions: of the documents to hold out, by split; see `divide`.
        with_train: False leaves the documents to train on alone, where only
            those held out are wanted.
        on_progress: called with bytes of finished files, bytes of all, and
            rows so far.
        **reading: options of `read_documents`.

    Returns:
        The prepared corpus.

    Raises:
        CorpusError: a document or file is malformed, or there is no row to
            train on. What is finished stays.
        OSError, tf.errors.OpError: `folder` cannot be written to.

    Example:

    >>> from pathlib import Path
    >>> import tensorflow as tf
    >>> from luna_tf.data.corpus import RowFormat, find_files, prepare
    >>> _ = Path("news.txt").write_text("abc\\n\\nde")
    >>> def letters(texts):
    ...     return tf.strings.unicode_decode(texts, "UTF-8")
    >>> form = RowFormat(5, start_id=2, end_id=3, pad_id=0)
    >>> files, made_from = find_files("news.txt"), {"tokens": "letters"}
    >>> corpus = prepare(files, "cache", letters, form, 128, made_from)
    >>> corpus.rows("train")
    array([[  2,  97,  98,  99,   3],
           [  2, 100, 101,   3,   0]], dtype=uint16)
    """
    fractions = dict(fractions or {})
    id_bytes = 2 if vocabulary_size <= 2**16 else 4
    description = json.loads(
        json.dumps(
            {
                "format_version": 1,
                "files": list(files.paths),
                "bytes": files.bytes,
                "changed": files.changed,
                "kind": files.kind,
                "rows": dataclasses.asdict(form),
                "id_bytes": id_bytes,
                "fractions": fractions,
                "with_train": with_train,
                "reading": reading,
                "made_from": dict(made_from),
            }
        )
    )
    text = json.dumps(description, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = f"{folder.rstrip('/')}/corpus-{digest}"
    tf.io.gfile.makedirs(folder)
    _write(f"{folder}/{_DESCRIPTION}", description)
    counts = {split: {"rows": 0, "tokens": 0} for split in SPLITS}
    found: dict[str, list[str]] = {split: [] for split in SPLITS}
    done = 0
    for index, path in enumerate(files.paths):
        part = _read_json(f"{folder}/{index:05}.json")
        if part is None:
            one = CorpusFiles(
                (path,), files.kind, files.bytes[index : index + 1]
            )
            before = sum(c["rows"] for c in counts.values())

            def told(rows: int, done: int = done, before: int = before) -> None:
                if on_progress is not None:
                    on_progress(done, sum(files.bytes), before + rows)

            part = _prepare_file(
                one,
                f"{folder}/{{}}-{index:05}.tfrecord",
                tokenize,
                form,
                id_bytes,
                fractions,
                with_train,
                told,
                reading,
            )
            _write(f"{folder}/{index:05}.json", part)
        for split in SPLITS:
            for name in counts[split]:
                counts[split][name] += part[split][name]
            if part[split]["rows"]:
                found[split].append(f"{folder}/{split}-{index:05}.tfrecord")
        done += files.bytes[index]
        if on_progress is not None:
            rows = sum(c["rows"] for c in counts.values())
            on_progress(done, sum(files.bytes), rows)
    if with_train and not counts["train"]["rows"]:
        raise CorpusError(
            f"{', '.join(files.paths[:3])}: no document to train on."
        )
    return PreparedCorpus(
        folder,
        form,
        id_bytes,
        counts,
        {split: tuple(paths) for split, paths in found.items()},
    )


def _prepare_file(
    file: CorpusFiles,
    name: str,
    tokenize: Callable[[tf.Tensor], tf.RaggedTensor],
    form: RowFormat,
    id_bytes: int,
    fractions: Mapping[str, float],
    with_train: bool,
    told: Callable[[int], None],
    reading: Mapping[str, Any],
) -> dict[str, dict[str, int]]:
    for path in file.paths:
        check_whole(path)
    documents = read_documents(file, **reading)
    parts = {"train": documents}
    if fractions:
        parts = divide(documents, fractions)
    if not with_train:
        del parts["train"]
    result = {split: {"rows": 0, "tokens": 0} for split in SPLITS}
    for split, part in parts.items():
        count = result[split]
        rows = token_rows(part, tokenize, form).batch(_BATCH).prefetch(2)
        unfinished = _unfinished(name.format(split))
        with explained(file), tf.io.TFRecordWriter(unfinished) as out:
            for batch in rows.as_numpy_iterator():
                for row in batch:
                    size = np.flatnonzero(row != form.pad_id)[-1] + 1
                    out.write(row[:size].astype(f"<u{id_bytes}").tobytes())
                    count["rows"] += 1
                    count["tokens"] += int(size)
                told(sum(c["rows"] for c in result.values()))
        tf.io.gfile.rename(unfinished, name.format(split), overwrite=True)
    return result


def _unfinished(path: str) -> str:
    """A name of its own: another run may be writing the same file."""
    return f"{path}.unfinished-{uuid.uuid4().hex[:8]}"


def _write(path: str, content: Any) -> None:
    unfinished = _unfinished(path)
    with tf.io.gfile.GFile(unfinished, "w") as file:
        file.write(json.dumps(content, indent=1) + "\n")
    tf.io.gfile.rename(unfinished, path, overwrite=True)


def _read_json(path: str) -> Any:
    if not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path, "r") as file:
        return json.loads(file.read())
