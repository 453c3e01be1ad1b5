import csv
import io
import math

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

from luna_tf.training.progress import ProgressBar, RunLog, format_duration


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def run_bar(terminal, steps=1000, seconds_per_step=0.05):
    time = 0.0
    stream = Stream(terminal)
    with ProgressBar(steps, "train", stream, clock=lambda: time) as bar:
        for step in range(1, steps + 1):
            time += seconds_per_step
            bar.update(step, f"loss {1 / step:.3f}")
    return stream.getvalue()


def test_a_log_file_gets_few_whole_lines():
    lines = run_bar(terminal=False).splitlines()
    # 50 s of steps, a line every 10 s, the first and the last.
    assert len(lines) == 6
    assert "\r" not in "".join(lines)
    assert lines[0].startswith("train  1/1,000")
    assert lines[-1] == "train  1,000/1,000  100 %  loss 0.001"


def test_the_remaining_time_is_no_longer_than_allowed():
    clock = iter([0.0, 100.0, 200.0]).__next__
    stream = io.StringIO()
    bar = ProgressBar(100, "train", stream, log_interval=1.0, clock=clock)
    bar.update(0)
    bar.update(10, "", 75.0)
    bar.update(20, "", 750.0)
    lines = stream.getvalue().splitlines()
    assert lines[1].endswith("ETA 1:15 min")
    assert lines[2].endswith("ETA 12:30 min")


def test_the_remaining_time_follows_the_pace():
    lines = run_bar(terminal=False).splitlines()
    assert lines[0].endswith("ETA --")
    assert lines[2].startswith("train  401/1,000")
    assert lines[2].endswith("ETA 30 s")


def test_a_terminal_is_redrawn_in_place():
    text = run_bar(terminal=True)
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert 100 < text.count("\r") <= 501
    assert "━" * 12 + "·" * 12 in text


def test_a_note_stays_above_the_bar_and_leaves_no_rest_of_it():
    stream = Stream(terminal=True)
    bar = ProgressBar(10, "train", stream)
    bar.update(1, "something long")
    bar.note("short")
    bar.update(10)
    bar.close()
    drawn, note, last = stream.getvalue().replace("\n", "").split("\r")[1:]
    assert note.rstrip() == "short"
    assert len(note) == len(drawn)
    assert last.startswith("train  10/10")
    assert stream.getvalue().count("\n") == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (185, "3:05 min"), (7385, "2:03:05 h")],
)
def test_durations_are_readable(seconds, text):
    assert format_duration(seconds) == text


def test_run_log_writes_a_table_and_events(tmp_path):
    with RunLog(tmp_path) as log:
        log.add("train", 5, {"loss": 2.5, "accuracy": 0.25})
        log.add("train", 10, {"loss": 2.0, "accuracy": 0.5})
        log.add("validation", 10, {"loss": 2.25})
        history = log.history()
    assert history["step"] == [5, 10]
    assert history["train_loss"] == [2.5, 2.0]
    assert math.isnan(history["validation_loss"][0])
    assert history["validation_loss"][1] == 2.25
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["5", "10"]
    assert [row["validation_loss"] for row in rows] == ["", "2.25"]
    assert {p.name for p in tmp_path.iterdir()} == {
        "history.csv",
        "tensorboard",
    }
    for split, expected in (
        ("train", [(5, 2.5), (10, 2.0)]),
        ("validation", [(10, 2.25)]),
    ):
        assert _scalars(tmp_path / "tensorboard" / split, "loss") == expected


def test_a_resumed_run_takes_over_its_table(tmp_path):
    with RunLog(tmp_path) as log:
        for step in (5, 10, 15):
            log.add("train", step, {"loss": step / 4})
        log.add("validation", 10, {"loss": 2.25})
    with RunLog(tmp_path) as log:
        log.resume(10)
        assert log.history()["step"] == [5, 10]
        # Measured again: the checkpoint was from before.
        log.add("train", 15, {"loss": 9.0})
        log.add("train", 20, {"loss": 0.1, "accuracy": 0.5})
        history = log.history()
    assert history["step"] == [5, 10, 15, 20]
    assert history["train_loss"] == [1.25, 2.5, 9.0, 0.1]
    assert history["validation_loss"][1] == 2.25
    assert math.isnan(history["validation_loss"][2])
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["train_loss"] for row in rows] == ["1.25", "2.5", "9.0", "0.1"]
    assert [row["train_accuracy"] for row in rows] == ["", "", "", "0.5"]


def test_a_run_without_a_table_resumes_with_an_empty_one(tmp_path):
    with RunLog(tmp_path) as log:
        log.resume(10)
        assert log.history() == {"step": []}


def test_numbers_come_back_from_the_table_as_they_were(tmp_path):
    values = {"loss": 0.1 + 0.2, "learning_rate": 1e-7 / 3}
    with RunLog(tmp_path) as log:
        log.add("train", 1, values)
    log = RunLog(tmp_path)
    log.resume(1)
    history = log.history()
    assert history["train_loss"] == [values["loss"]]
    assert history["train_learning_rate"] == [values["learning_rate"]]


def test_a_table_beyond_the_local_disk(tmp_path):
    folder = f"ram://{tmp_path.name}"
    for last in (1, 2):
        log = RunLog(folder)
        log.resume(1)
        log.add("train", last, {"loss": 1.0 / last})
        log.close()
    log.resume(2)
    assert log.history() == {"step": [1, 2], "train_loss": [1.0, 0.5]}


def test_a_note_is_a_text_for_tensorboard(tmp_path):
    with RunLog(tmp_path) as log:
        log.note("recipe", "    width: 8\n    fast: true")
    events = EventAccumulator(str(tmp_path / "tensorboard" / "train"))
    events.Reload()
    (event,) = events.Tensors("recipe")
    text = tf.make_ndarray(event.tensor_proto).item().decode()
    assert text == "    width: 8\n    fast: true"


def _scalars(folder, tag):
    accumulator = EventAccumulator(str(folder), {"tensors": 0})
    accumulator.Reload()
    return [
        (event.step, float(tf.make_ndarray(event.tensor_proto)))
        for event in accumulator.Tensors(tag)
    ]
