"""The ListOps cache on disk, and the folder of the release."""

import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import luna_tf
from luna_tf.data.lra import data_cache, listops_cache
from luna_tf.data.lra.listops import VOCABULARY, to_tsv_source
from luna_tf.data.lra.listops_cache import load_or_generate, load_tsv_folder
from luna_tf.data.lra.listops_generator import ListOpsConfig, generate

CONFIG = ListOpsConfig(60, 20, 10, min_length=9, max_length=51)
FILES = ["dataset.json", "test.tfrecord", "train.tfrecord"]
FILES.append("validation.tfrecord")


@pytest.fixture(scope="module")
def expected():
    return generate(CONFIG)


def assert_equal(splits, expected):
    assert list(splits) == list(expected) == ["train", "validation", "test"]
    for name, split in splits.items():
        for field in ("tokens", "row_splits", "labels"):
            array = getattr(split, field)
            assert array.dtype == getattr(expected[name], field).dtype
            np.testing.assert_array_equal(array, getattr(expected[name], field))


def only_folder(cache_dir):
    [folder] = Path(cache_dir).iterdir()
    return folder


def test_second_call_reads_what_the_first_wrote(
    tmp_path, expected, monkeypatch
):
    cache_dir = tmp_path / "made" / "here"
    assert_equal(load_or_generate(cache_dir, CONFIG), expected)
    folder = only_folder(cache_dir)
    assert folder.name.startswith("listops-9-51-seed0-")
    assert sorted(path.name for path in folder.iterdir()) == FILES
    monkeypatch.setattr(listops_cache, "generate", None)
    assert_equal(load_or_generate(str(cache_dir), CONFIG), expected)
    assert only_folder(cache_dir) == folder


def test_description_has_parameters_and_checksums(tmp_path):
    load_or_generate(tmp_path, CONFIG)
    folder = only_folder(tmp_path)
    description = json.loads((folder / "dataset.json").read_text())
    assert description["format_version"] == 1
    assert description["generator_version"] == 1
    assert description["config"] == dataclasses.asdict(CONFIG)
    assert sorted(description["files"]) == FILES[1:]
    for name, file in description["files"].items():
        data = (folder / name).read_bytes()
        assert file["num_bytes"] == len(data)
        assert file["sha256"] == hashlib.sha256(data).hexdigest()
    assert description["files"]["validation.tfrecord"]["num_examples"] == 20


def test_any_reader_can_read_the_records(tmp_path, expected):
    load_or_generate(tmp_path, CONFIG)
    path = only_folder(tmp_path) / "test.tfrecord"
    for i, record in enumerate(tf.data.TFRecordDataset(str(path))):
        feature = tf.train.Example.FromString(record.numpy()).features.feature
        [tokens] = feature["tokens"].bytes_list.value
        assert list(tokens) == expected["test"].example(i).tolist()
        assert VOCABULARY[tokens[-1]] == "]"
        [label] = feature["label"].int64_list.value
        assert label == expected["test"].labels[i]
    assert i == 9


def test_other_configurations_have_folders_of_their_own(tmp_path):
    for change in (dict(), dict(seed=1), dict(num_test=11), dict(max_args=9)):
        load_or_generate(tmp_path, dataclasses.replace(CONFIG, **change))
    assert len(list(tmp_path.iterdir())) == 4


def test_a_new_generator_does_not_use_old_data(tmp_path, monkeypatch):
    load_or_generate(tmp_path, CONFIG)
    monkeypatch.setattr(listops_cache, "GENERATOR_VERSION", 2)
    load_or_generate(tmp_path, CONFIG)
    assert len(list(tmp_path.iterdir())) == 2


def flip_byte(folder):
    path = folder / "train.tfrecord"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(folder):
    path = folder / "train.tfrecord"
    path.write_bytes(path.read_bytes()[:-1])


def edit_description(**changes):
    def damage(folder):
        path = folder / "dataset.json"
        description = json.loads(path.read_text())
        path.write_text(json.dumps({**description, **changes}))

    return damage


def miscount(folder):
    path = folder / "dataset.json"
    path.write_text(
        path.read_text().replace('"num_examples": 60', '"num_examples": 61')
    )


def replace_by_file(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("")


DAMAGES = {
    "flipped byte": (flip_byte, "does not match its checksum"),
    "truncated": (truncate, "bytes, not"),
    "no file": (lambda f: (f / FILES[1]).unlink(), "FileNotFoundError"),
    "no description": (lambda f: (f / FILES[0]).unlink(), "dataset.json"),
    "empty description": (
        lambda f: (f / FILES[0]).write_text(""),
        "JSONDecodeError",
    ),
    "list": (lambda f: (f / FILES[0]).write_text("[]"), "Error"),
    "no checksums": (edit_description(files={}), "KeyError"),
    "old format": (edit_description(format_version=0), "another dataset"),
    "miscounted": (miscount, "holds 60 examples, not 61"),
    "no folder": (replace_by_file, "NotADirectoryError"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_broken_cache_is_reported_and_replaced(tmp_path, expected, damage):
    load_or_generate(tmp_path, CONFIG)
    folder = only_folder(tmp_path)
    do_damage, problem = DAMAGES[damage]
    do_damage(folder)
    with pytest.warns(UserWarning, match="is broken") as caught:
        assert_equal(load_or_generate(tmp_path, CONFIG), expected)
    [warning] = caught
    assert str(folder) in str(warning.message)
    assert problem in str(warning.message)
    # Whole again: no further warning, which would be an error.
    assert_equal(load_or_generate(tmp_path, CONFIG), expected)
    assert only_folder(tmp_path) == folder


@pytest.mark.parametrize("step", range(8))
def test_failure_at_any_step_leaves_nothing(
    tmp_path, expected, monkeypatch, step
):
    class Killed(BaseException):
        pass

    steps = itertools.count()

    def failing(function):
        def call(*args):
            if next(steps) == step:
                raise Killed
            return function(*args)

        return call

    with monkeypatch.context() as patch:
        # Three files, each flushed; then the description and the folder.
        for module, name in (
            (listops_cache, "_write_records"),
            (data_cache, "_flush"),
        ):
            patch.setattr(module, name, failing(getattr(module, name)))
        with pytest.raises(Killed):
            load_or_generate(tmp_path, CONFIG)
    assert not list(tmp_path.iterdir())
    assert_equal(load_or_generate(tmp_path, CONFIG), expected)


KILLED_WHILE_WRITING = """
import sys, time
from luna_tf.data.lra import listops_cache
from luna_tf.data.lra.listops_generator import ListOpsConfig

write = listops_cache._write_records
def write_and_wait(path, split):
    write(path, split)
    if path.name == "validation.tfrecord":
        print("two files are written", flush=True)
        time.sleep(600)

listops_cache._write_records = write_and_wait
config = ListOpsConfig(60, 20, 10, min_length=9, max_length=51)
listops_cache.load_or_generate(sys.argv[1], config)
"""


@pytest.mark.multiprocess
def test_killed_process_leaves_no_whole_cache(tmp_path, expected):
    root = str(Path(luna_tf.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "two files are written\n"
        finally:
            process.send_signal(signal.SIGKILL)
    partial = only_folder(tmp_path)
    assert partial.name.startswith(".") and partial.suffix == ".partial"
    assert (partial / "train.tfrecord").exists()
    assert_equal(load_or_generate(tmp_path, CONFIG), expected)
    # What is left is taken away some day, but not while it may be in use.
    assert partial.exists()


def test_leftovers_are_removed_after_a_day(tmp_path):
    load_or_generate(tmp_path, CONFIG)
    name = only_folder(tmp_path).name
    load_or_generate(tmp_path / "b", CONFIG)
    now = time.time()
    for suffix, age in (("new", 3600), ("old", 2 * 86400)):
        leftover = tmp_path / "c" / f".{name}.{suffix}.partial"
        leftover.mkdir(parents=True)
        (leftover / "train.tfrecord").write_text("half")
        os.utime(leftover, (now - age, now - age))
    load_or_generate(tmp_path / "c", CONFIG)
    names = sorted(path.name for path in (tmp_path / "c").iterdir())
    assert names == [f".{name}.new.partial", name]


@pytest.mark.parametrize("broken", [False, True])
def test_racing_writers_both_succeed(tmp_path, expected, monkeypatch, broken):
    if broken:
        load_or_generate(tmp_path, CONFIG)
        flip_byte(only_folder(tmp_path))
    # All have generated before the first one writes.
    barrier = threading.Barrier(3, timeout=30)

    def generate_together(*args):
        splits = generate(*args)
        barrier.wait()
        return splits

    monkeypatch.setattr(listops_cache, "generate", generate_together)
    with (
        warnings.catch_warnings(),
        concurrent.futures.ThreadPoolExecutor(3) as pool,
    ):
        warnings.filterwarnings("ignore", ".*is broken", UserWarning)
        jobs = [
            pool.submit(load_or_generate, tmp_path, CONFIG) for _ in range(3)
        ]
        for job in jobs:
            assert_equal(job.result(), expected)
    monkeypatch.setattr(listops_cache, "generate", None)
    assert_equal(load_or_generate(tmp_path, CONFIG), expected)
    assert only_folder(tmp_path)


def test_a_whole_cache_is_never_replaced(tmp_path, expected, monkeypatch):
    def generate_slowly(*args):
        with monkeypatch.context() as patch:
            patch.setattr(listops_cache, "generate", generate)
            load_or_generate(tmp_path, CONFIG)
        others.append(only_folder(tmp_path).stat().st_ino)
        return generate(*args)

    others = []
    monkeypatch.setattr(listops_cache, "generate", generate_slowly)
    assert_equal(load_or_generate(tmp_path, CONFIG), expected)
    assert only_folder(tmp_path).stat().st_ino == others[0]


def test_urls_are_refused():
    with pytest.raises(ValueError, match="cache_dir='gs://bucket'"):
        load_or_generate("gs://bucket", CONFIG)


def test_load_tsv_folder(tmp_path, expected, monkeypatch):
    names = dict(train="train", validation="val", test="test")
    for name, file in names.items():
        split = expected[name]
        lines = ["Source\tTarget"]
        for i, label in enumerate(split.labels):
            lines.append(f"{to_tsv_source(split.example(i))}\t{label}")
        (tmp_path / f"basic_{file}.tsv").write_text("\n".join(lines) + "\n")
    assert_equal(load_tsv_folder(tmp_path), expected)
    cache = tmp_path / "cache"
    assert_equal(load_tsv_folder(tmp_path, cache_dir=cache), expected)
    with monkeypatch.context() as patch:
        patch.setattr(listops_cache, "read_tsv", None)  # is not asked again
        assert_equal(load_tsv_folder(tmp_path, cache_dir=cache), expected)

    path = tmp_path / "basic_test.tsv"
    path.write_text(path.read_text() + "[MIN 1 2 ]\t7\n")
    # Not the cache of the file as it was.
    with pytest.raises(ValueError, match="basic_test.tsv, line 12: label is 7"):
        load_tsv_folder(tmp_path, cache_dir=cache)
    with pytest.warns(UserWarning, match="skipped 1 malformed of 11 lines"):
        assert_equal(load_tsv_folder(tmp_path, skip_malformed=True), expected)

    (tmp_path / "basic_val.tsv").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load_tsv_folder(tmp_path)
    message = str(caught.value)
    assert f"no basic_val.tsv in {tmp_path}" in message
    assert "lra_release/lra_release/listops-1000" in message
