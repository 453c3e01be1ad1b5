"""What a run tells while it goes: a progress bar, a table, TensorBoard."""

from __future__ import annotations

import csv
import io
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

import tensorflow as tf

from . import files


def format_duration(seconds: float) -> str:
    """Writes seconds as `42 s`, `3:05 min` or `2:03:05 h`."""
    total = max(0, round(seconds))
    minutes, rest = divmod(total, 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes_left = divmod(minutes, 60)
    if hours < 1:
        return f"{minutes}:{rest:02d} min"
    return f"{hours}:{minutes_left:02d}:{rest:02d} h"


class ProgressBar:
    """One line of progress that suits a terminal and a log file.

    A terminal shows a bar that is redrawn in place. Anything else gets a
    plain line now and then: `keras.utils.Progbar` would write one per update.

    Args:
        total: steps of the whole job.
        label: word in front of the numbers.
        stream: where to write, `sys.stderr` when None.
        log_interval: seconds between two lines where there is no terminal.
        clock: seconds since any fixed moment; tests pass their own.

    Example:

    >>> import sys
    >>> with ProgressBar(1000, "train", sys.stdout) as bar:
    ...     for step in range(1, 1001):
    ...         bar.update(step, "loss 1.234")
    train  1/1,000  0 %  loss 1.234  ETA --
    train  1,000/1,000  100 %  loss 1.234
    """

    _WIDTH = 24
    _REDRAW_INTERVAL = 0.1

    def __init__(
        self,
        total: int,
        label: str,
        stream: TextIO | None = None,
        log_interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._label = label
        self._stream = stream if stream is not None else sys.stderr
        self._terminal = self._stream.isatty()
        self._interval = (
            self._REDRAW_INTERVAL if self._terminal else log_interval
        )
        self._clock = clock
        self._first: tuple[int, float] | None = None
        self._shown_at = -math.inf
        self._line_width = 0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(
        self, step: int, text: str = "", seconds_left: float = math.inf
    ) -> None:
        """Shows a step if it is time to; the last step is always shown.

        Args:
            step: steps done, 0 to `total`.
            text: measurements to show next to it.
            seconds_left: after which the job ends whatever its step.
        """
        now = self._clock()
        if self._first is None:
            self._first = (step, now)
        if step < self._total and now - self._shown_at < self._interval:
            return
        self._shown_at = now
        parts = [self._label, f"{step:,}/{self._total:,}"]
        if self._terminal:
            filled = self._WIDTH * step // max(self._total, 1)
            parts.append("━" * filled + "·" * (self._WIDTH - filled))
        parts += [f"{100 * step // max(self._total, 1)} %", text]
        parts.append(self._remaining(step, now, seconds_left))
        self._write("  ".join(part for part in parts if part))

    def note(self, text: str) -> None:
        """Writes a line that stays, above the bar."""
        self._write(text)
        self.close()

    def close(self) -> None:
        """Leaves the current line standing and goes on to a fresh one."""
        if self._line_width:
            self._stream.write("\n")
            self._stream.flush()
            self._line_width = 0

    def _remaining(self, step: int, now: float, at_most: float) -> str:
        """Time left by the pace since the first update, which compiled."""
        assert self._first is not None
        first_step, first_time = self._first
        if step >= self._total:
            return ""
        if step <= first_step:
            return "ETA --"
        pace = (now - first_time) / (step - first_step)
        seconds = min(pace * (self._total - step), at_most)
        return f"ETA {format_duration(seconds)}"

    def _write(self, line: str) -> None:
        if self._terminal:
            padding = " " * max(0, self._line_width - len(line))
            self._stream.write(f"\r{line}{padding}")
            self._line_width = len(line)
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()


class RunLog:
    """Keeps the measurements of a run as a table and as TensorBoard events.

    Args:
        folder: gets `history.csv` and `tensorboard/train` and
            `tensorboard/validation`; any path that `tf.io.gfile` knows.

    Example:

    >>> import pathlib
    >>> with RunLog("runs/first") as log:
    ...     log.add("train", 50, {"loss": 2.1, "accuracy": 0.25})
    ...     log.add("validation", 50, {"loss": 2.0})
    >>> print(pathlib.Path("runs/first/history.csv").read_text().strip())
    step,train_accuracy,train_loss,validation_loss
    50,0.25,2.1,2.0
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self._folder = os.fspath(folder)
        self._rows: dict[int, dict[str, float]] = {}
        self._writers: dict[str, tf.summary.SummaryWriter] = {}

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, split: str, step: int, values: Mapping[str, float]) -> None:
        """Records scalars of one step.

        Args:
            split: "train" or "validation", first part of the column names.
            step: steps done.
            values: name to number.
        """
        row = self._rows.setdefault(step, {})
        row.update({f"{split}_{name}": v for name, v in values.items()})
        with self._writer(split).as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def _writer(self, split: str) -> tf.summary.SummaryWriter:
        if split not in self._writers:
            self._writers[split] = tf.summary.create_file_writer(
                files.join(self._folder, "tensorboard", split)
            )
        return self._writers[split]

    def resume(self, step: int) -> None:
        """Takes over the table of an interrupted run, up to a step.

        Args:
            step: step that the run goes on from; later rows are left out, as
                they will be measured again.
        """
        path = files.join(self._folder, "history.csv")
        if not files.exists(path):
            return
        for row in csv.DictReader(io.StringIO(files.read_text(path))):
            done = int(row.pop("step"))
            if done <= step:
                self._rows[done] = {k: float(v) for k, v in row.items() if v}

    def note(self, name: str, text: str) -> None:
        """Shows a text, in Markdown, in TensorBoard.

        Args:
            name: its title.
            text: for a listing, indented by four.
        """
        with self._writer("train").as_default(step=0):
            tf.summary.text(name, text)

    def history(self) -> dict[str, list[float]]:
        """The table by columns: `step` and the rest, NaN where empty."""
        names = sorted({name for row in self._rows.values() for name in row})
        columns = {"step": [float(step) for step in self._rows]}
        for name in names:
            columns[name] = [
                row.get(name, math.nan) for row in self._rows.values()
            ]
        return columns

    def save(self) -> None:
        """Writes `history.csv` anew and flushes the events."""
        columns = self.history()
        columns["step"] = [int(step) for step in columns["step"]]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow(["" if math.isnan(v) else v for v in row])
        files.write_text(
            files.join(self._folder, "history.csv"), text.getvalue()
        )
        for events in self._writers.values():
            events.flush()

    def close(self) -> None:
        """Saves and closes the event files."""
        self.save()
        for events in self._writers.values():
            events.close()
