"""Pathfinder pictures as TFRecord: resumed, checked, read by anyone."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from luna_tf.data.lra import pathfinder_generator, pathfinder_records
from luna_tf.data.lra.pathfinder_generator import PathfinderConfig, generate
from luna_tf.data.lra.pathfinder_records import (
    load_or_generate_pathfinder,
    read_pathfinder_records,
    write_pathfinder_records,
)

CONFIG = PathfinderConfig(32, "easy", 1010, seed=7)
FILES = [f"pictures-0000{i}-of-00003.tfrecord" for i in range(3)]


@pytest.fixture(scope="module")
def expected():
    return generate(CONFIG, num_workers=1)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "made" / "here"
    write_pathfinder_records(folder, CONFIG, num_workers=2)
    return folder


def assert_splits(splits, expected):
    assert list(splits) == ["train", "validation", "test"]
    assert [len(split) for split in splits.values()] == [808, 101, 101]
    for array, name in zip(expected, ("pixels", "labels"), strict=True):
        actual = [getattr(split, name) for split in splits.values()]
        np.testing.assert_array_equal(np.concatenate(actual), array)


def contents(folder):
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name != "SHA256SUMS"
    }


def copy(folder, target):
    target.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def forbid_generating(monkeypatch):
    monkeypatch.setattr(pathfinder_generator, "grow_targets", None)


def test_what_is_written_is_read(written, expected):
    assert sorted(contents(written)) == ["dataset.json", *FILES]
    assert_splits(read_pathfinder_records(written), expected)
    description = json.loads((written / "dataset.json").read_text())
    assert description["config"] == CONFIG.describe()
    lines = (written / "SHA256SUMS").read_text().splitlines()
    for name, line in zip(FILES, lines, strict=True):
        digest = hashlib.sha256((written / name).read_bytes()).hexdigest()
        assert line == f"{digest}  {name}"


def test_any_reader_can_read_the_records(written, expected):
    records = tf.data.TFRecordDataset(str(written / FILES[2]))
    for i, record in enumerate(records):
        feature = tf.train.Example.FromString(record.numpy()).features.feature
        [image] = feature["image"].bytes_list.value
        assert image == expected[0][1000 + i].tobytes()
        [label] = feature["label"].int64_list.value
        assert label == expected[1][1000 + i]
    assert i == 9


def test_the_second_call_generates_nothing(tmp_path, expected, monkeypatch):
    calls = []
    progress = lambda *numbers: calls.append(numbers)  # noqa: E731
    cache = tmp_path / "cache"
    first = load_or_generate_pathfinder(cache, CONFIG, 1, progress)
    assert_splits(first, expected)
    assert calls == [(500, 1010), (1000, 1010), (1010, 1010)]
    [folder] = cache.iterdir()
    assert folder.name.startswith("pathfinder32-easy-")
    forbid_generating(monkeypatch)
    again = load_or_generate_pathfinder(str(cache), CONFIG, 1, progress)
    assert_splits(again, expected)
    assert len(calls) == 3


def test_other_configurations_have_folders_of_their_own(tmp_path):
    config = PathfinderConfig(32, "easy", 10)
    for change in (dict(), dict(seed=1), dict(num_examples=11)):
        load_or_generate_pathfinder(
            tmp_path, dataclasses.replace(config, **change)
        )
    assert len(list(tmp_path.iterdir())) == 3


def test_an_interrupted_run_is_taken_up(tmp_path, written, monkeypatch):
    def interrupt(done, total):
        if done == 500:
            raise KeyboardInterrupt

    folder = tmp_path / "pictures"
    with pytest.raises(KeyboardInterrupt):
        write_pathfinder_records(folder, CONFIG, 2, interrupt)
    assert sorted(contents(folder)) == ["dataset.json", FILES[0]]
    with pytest.raises(FileNotFoundError, match="00001-of-00003.*not there"):
        read_pathfinder_records(folder)
    # As a kill would: a file that is not listed, half a line, a leftover.
    (folder / FILES[1]).write_bytes(b"half of it")
    with open(folder / "SHA256SUMS", "a") as file:
        file.write("0123456789abcdef  pictures-0000")
    leftover = folder / f".{FILES[1]}.0123.partial"
    leftover.write_bytes(b"half of it")
    os.utime(leftover, (time.time() - 10**6,) * 2)
    first = folder / FILES[0]
    before = first.stat().st_mtime_ns
    calls = []
    write_pathfinder_records(
        folder, CONFIG, 1, lambda *numbers: calls.append(numbers)
    )
    assert calls == [(500, 1010), (1000, 1010), (1010, 1010)]
    assert contents(folder) == contents(written)
    assert first.stat().st_mtime_ns == before
    forbid_generating(monkeypatch)
    write_pathfinder_records(folder, CONFIG, 1)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_killed_process_loses_nothing_that_it_wrote(tmp_path, written):
    folder = tmp_path / "pictures"
    program = (
        "import os\n"
        "from luna_tf.data.lra.pathfinder_generator import PathfinderConfig\n"
        "from luna_tf.data.lra.pathfinder_records import "
        "write_pathfinder_records\n"
        f"write_pathfinder_records({str(folder)!r}, {CONFIG}, 2, "
        "lambda done, total: os._exit(9) if done == 1000 else None)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=600
    )
    assert result.returncode == 9, result.stderr
    assert sorted(contents(folder)) == ["dataset.json", *FILES[:2]]
    calls = []
    write_pathfinder_records(
        folder, CONFIG, 1, lambda *numbers: calls.append(numbers)
    )
    assert calls == [(1000, 1010), (1010, 1010)]
    assert contents(folder) == contents(written)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-7],
        lambda data: b"",
        lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
    ],
    ids=["truncated", "empty", "flipped"],
)
def test_damaged_files_are_named_and_made_anew(tmp_path, written, damage):
    folder = copy(written, tmp_path / "pictures")
    path = folder / FILES[1]
    path.write_bytes(damage(path.read_bytes()))
    message = f"{FILES[1]} is damaged: .* bytes do not match SHA256SUMS"
    with pytest.raises(ValueError, match=message):
        read_pathfinder_records(folder)
    with pytest.warns(UserWarning, match=f"{FILES[1]} is damaged"):
        write_pathfinder_records(folder, CONFIG, 1)
    assert contents(folder) == contents(written)


def test_a_damaged_cache_warns_at_the_callers_line(tmp_path):
    config = PathfinderConfig(32, "easy", 10)
    load_or_generate_pathfinder(tmp_path, config)
    [path] = tmp_path.glob("*/*.tfrecord")
    path.write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged") as caught:
        load_or_generate_pathfinder(tmp_path, config)
    assert caught[0].filename == __file__


def test_other_data_are_never_overwritten(tmp_path, written):
    folder = copy(written, tmp_path / "pictures")
    other = dataclasses.replace(CONFIG, seed=8)
    with pytest.raises(ValueError, match="holds another data set.*'seed': 7"):
        write_pathfinder_records(folder, other)
    assert contents(folder) == contents(written)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="letters is not empty"):
        write_pathfinder_records(tmp_path / "letters", CONFIG)


def test_a_new_generator_does_not_use_old_pictures(
    tmp_path, written, monkeypatch
):
    monkeypatch.setattr(pathfinder_records, "GENERATOR_VERSION", 10**6)
    with pytest.raises(ValueError, match="dataset.json cannot be used"):
        read_pathfinder_records(written)
    with pytest.raises(ValueError, match="holds another data set"):
        write_pathfinder_records(written, CONFIG)


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"config": {"size": 3}}'])
def test_descriptions_that_are_none(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match="dataset.json cannot be used"):
        read_pathfinder_records(tmp_path)
    with pytest.raises(ValueError, match="dataset.json"):
        write_pathfinder_records(tmp_path, CONFIG)


def test_folders_that_cannot_be_used(tmp_path, monkeypatch):
    forbid_generating(monkeypatch)
    with pytest.raises(FileNotFoundError, match="no dataset.json in"):
        read_pathfinder_records(tmp_path)
    with pytest.raises(ValueError, match="cache_dir must be a local folder"):
        load_or_generate_pathfinder("gs://bucket/cache", CONFIG)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        load_or_generate_pathfinder(tmp_path / "file", CONFIG)


def test_a_folder_without_permission(tmp_path, without_privileges):
    tmp_path.chmod(0o500)
    with without_privileges(tmp_path), pytest.raises(PermissionError):
        load_or_generate_pathfinder(tmp_path, CONFIG)
