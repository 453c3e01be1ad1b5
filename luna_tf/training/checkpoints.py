"""Checkpoints from which a killed run goes on bit for bit.

    checkpoints/step-00000400/state.index, state.data-…   TensorFlow's format
    checkpoints/step-00000400/input-0.index, …            of streams only
    checkpoints/step-00000400/checkpoint.json             written last

A folder without a readable `checkpoint.json` is one that was never finished;
it is reported, skipped, and removed by the next save of that step. Contents
are protected by TensorFlow's own checksums. Nothing is ever overwritten in
place, and no rename of folders is needed, so object stores (gs://) work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from absl import logging as absl_logging

from . import files

MARKER = "checkpoint.json"
_FOLDER = re.compile(r"step-(\d+)/?$")
_FORMAT = 1
# What TensorFlow's readers and ours make of damaged files. A status of "out of
# range" arrives as IndexError.
_UNREADABLE = (
    tf.errors.OpError,
    OSError,
    ValueError,
    LookupError,
    RuntimeError,
)


class CheckpointError(RuntimeError):
    """Checkpoints that cannot be written, or none of which can be read."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """What was read, and what was not.

    Args:
        step: steps done.
        notes: what the run told about itself when it saved.
        skipped: a line for every newer checkpoint that could not be used.
    """

    step: int
    notes: dict[str, Any]
    skipped: list[str]


class Checkpoints:
    """Writes and reads the checkpoints of one run.

    Args:
        folder: where they lie; any path that `tf.io.gfile` knows.
        state: name to what is saved: Keras models, optimizers, variables.
        keep: how many of the newest are kept, at least 1.
        every: with `count`, which others are kept: those of the newest `count`
            steps that are multiples of this, whatever was saved in between,
            as `last_steps` wants them.
        count: see `every`.
        worker: number of this process. Only 0 writes the state; the others
            add the state of their input pipelines.
        num_workers: processes that save together.
        barrier: called when all workers must have come to the same point.

    Raises:
        ValueError: `keep` or `every` is below 1, or `count` below 0.

    Example:

    >>> import tensorflow as tf
    >>> weight = tf.Variable(1.0)
    >>> checkpoints = Checkpoints("run/checkpoints", {"weight": weight})
    >>> checkpoints.save(100, {"best_accuracy": 0.5})
    >>> _ = weight.assign(7.0)
    >>> restored = checkpoints.restore()
    >>> restored.step, restored.notes, float(weight)
    (100, {'best_accuracy': 0.5}, 1.0)
    """

    def __init__(
        self,
        folder: str,
        state: Mapping[str, Any],
        keep: int = 3,
        every: int = 1,
        count: int = 0,
        worker: int = 0,
        num_workers: int = 1,
        barrier: Callable[[], None] = lambda: None,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1. Received: {keep}")
        if every < 1 or count < 0:
            raise ValueError(
                "every must be at least 1 and count at least 0. Received: "
                f"every={every}, count={count}"
            )
        self.folder = str(folder).rstrip("/")
        self._state = dict(state)
        self._keep = keep
        self._every, self._count = every, count
        self._worker = worker
        self._num_workers = num_workers
        self._barrier = barrier

    def steps(self) -> list[int]:
        """Steps of all folders, finished or not, oldest first."""
        if not tf.io.gfile.exists(self.folder):
            return []
        matches = map(_FOLDER.search, tf.io.gfile.listdir(self.folder))
        return sorted(int(match[1]) for match in matches if match)

    def save(
        self, step: int, notes: Mapping[str, Any], iterator: Any = None
    ) -> None:
        """Writes a checkpoint and removes those that are too old.

        Args:
            step: steps done.
            notes: anything that JSON can hold, for `restore` to return.
            iterator: the plain `tf.data` iterator of a stream, if any; all it
                has given must have been used.

        Raises:
            CheckpointError: it cannot be written. Earlier checkpoints are
                untouched.
        """
        path = self._path(step)
        if self._worker == 0:
            with _writing(path):
                self._remove(step)  # left unfinished by a kill
                tf.io.gfile.makedirs(path)
                tf.train.Checkpoint(**self._state).write(f"{path}/state")
        self._barrier()
        if iterator is not None:
            with _writing(path):
                tf.train.Checkpoint(iterator=iterator).write(
                    f"{path}/input-{self._worker}"
                )
        self._barrier()
        if self._worker == 0:
            with _writing(path):
                self._finish(step, notes)
            # A newer one could not be read, or this run would not be here: it
            # must not push out those that can.
            done = [s for s in self._finished() if s <= step]
            regular = [s for s in done if s % self._every == 0]
            regular = regular[max(0, len(regular) - self._count) :]
            kept = {*done[-self._keep :], *regular}
            for old in sorted(set(done) - kept):
                self._remove(old)

    def _finish(self, step: int, notes: Mapping[str, Any]) -> None:
        path = self._path(step)
        sizes = {
            name: tf.io.gfile.stat(f"{path}/{name}").length
            for name in sorted(tf.io.gfile.listdir(path))
        }
        text = json.dumps(
            {
                "format": _FORMAT,
                "step": step,
                "workers": self._num_workers,
                "bytes": sizes,
                "notes": dict(notes),
            },
            indent=2,
        )
        files.write_text(f"{path}/{MARKER}", text)

    def restore(
        self, make_iterator: Callable[[], Any] | None = None
    ) -> Restored | None:
        """Reads the newest checkpoint that is whole.

        Args:
            make_iterator: for streams, gives the fresh plain iterator whose
                state shall be read.

        Returns:
            What was read, or None where there is no checkpoint at all.

        Raises:
            CheckpointError: there are checkpoints, but none can be read.
        """
        skipped: list[str] = []
        for step in reversed(self.steps()):
            path = self._path(step)
            try:
                marker = self._check(step)
                self._read(path, make_iterator)
            except _UNREADABLE as error:
                skipped.append(f"{path}: {_first_line(error)}")
                continue
            return Restored(step, marker["notes"], skipped)
        if skipped:
            raise CheckpointError(
                "no checkpoint can be read:\n  " + "\n  ".join(skipped)
            )
        return None

    def newest_notes(self) -> Restored | None:
        """Like `restore`, by the markers alone; no variable is changed."""
        skipped: list[str] = []
        for step in reversed(self.steps()):
            try:
                return Restored(step, self._check(step)["notes"], skipped)
            except _UNREADABLE as error:
                skipped.append(f"{self._path(step)}: {_first_line(error)}")
        return None

    def problem_of(self, step: int) -> str | None:
        """What keeps a checkpoint from being read, by its marker alone."""
        try:
            self._check(step)
        except _UNREADABLE as error:
            return _first_line(error)
        return None

    def read(self, step: int) -> None:
        """Reads the state of one step, be it the newest or not.

        Args:
            step: whose checkpoint.

        Raises:
            CheckpointError: it cannot be read.
        """
        path = self._path(step)
        try:
            self._check(step)
            self._read(path, None)
        except _UNREADABLE as error:
            raise CheckpointError(
                f"{path} cannot be read: {_first_line(error)}"
            ) from error

    def _check(self, step: int) -> dict[str, Any]:
        """Reads a marker and compares it with what lies there."""
        path = self._path(step)
        if not tf.io.gfile.exists(f"{path}/{MARKER}"):
            raise ValueError("was never finished")
        marker = json.loads(files.read_text(f"{path}/{MARKER}"))
        if (
            not isinstance(marker, dict)
            or marker.get("format") != _FORMAT
            or not marker.keys() >= {"workers", "bytes", "notes"}
        ):
            raise ValueError(f"{MARKER} is of another format")
        if marker["workers"] != self._num_workers and any(
            name.startswith("input-") for name in marker["bytes"]
        ):
            raise ValueError(
                f"holds the input of {marker['workers']} workers, not of "
                f"{self._num_workers}"
            )
        for name, size in marker["bytes"].items():
            file = f"{path}/{name}"
            if not tf.io.gfile.exists(file):
                raise ValueError(f"{name} is missing")
            found = tf.io.gfile.stat(file).length
            if found != size:
                raise ValueError(f"{name} has {found} bytes, not {size}")
        return marker

    def _read(self, path: str, make_iterator: Callable[[], Any] | None) -> None:
        # Every value is read into memory before any variable is changed: a
        # damaged file must not leave half a state behind.
        # `tf.train.load_checkpoint` takes this prefix for a folder where a file
        # system has no folders of its own (ram://).
        reader = tf.compat.v1.train.NewCheckpointReader(f"{path}/state")
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
        try:
            status = tf.train.Checkpoint(**self._state).read(f"{path}/state")
            status.assert_existing_objects_matched()
            status.expect_partial()  # averaging wants the model alone
            if make_iterator is not None:
                iterator = tf.train.Checkpoint(iterator=make_iterator())
                status = iterator.read(f"{path}/input-{self._worker}")
                status.assert_consumed()
        except AssertionError as error:
            raise ValueError(
                f"does not fit this run: {_first_line(error)}"
            ) from error

    def _finished(self) -> list[int]:
        return [
            step
            for step in self.steps()
            if tf.io.gfile.exists(f"{self._path(step)}/{MARKER}")
        ]

    def _remove(self, step: int) -> None:
        path = self._path(step)
        if not tf.io.gfile.exists(path):
            return
        # The marker goes first, so that a kill in between leaves a folder
        # that is known to be unfinished.
        if tf.io.gfile.exists(f"{path}/{MARKER}"):
            tf.io.gfile.remove(f"{path}/{MARKER}")
        tf.io.gfile.rmtree(path)

    def _path(self, step: int) -> str:
        return f"{self.folder}/step-{step:08d}"


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    # TensorFlow tells how long the parts of a write took; AutoGraph undoes a
    # level that is set once and for all.
    level = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.WARNING)
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        raise CheckpointError(
            f"{path} could not be written: {_first_line(error)}. Checkpoints "
            "from before are whole."
        ) from error
    finally:
        absl_logging.set_verbosity(level)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
