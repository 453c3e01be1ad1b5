"""Parsed data sets on disk: found again, or made anew."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from luna_tf.data.lra.data_cache import load_or_parse
from luna_tf.data.lra.labelled import LabelledSplits
from luna_tf.data.lra.splits import ImageSplit

DIGITS = {
    "train": ImageSplit(np.zeros((2, 3, 4)), [0, 1]),
    "test": ImageSplit(np.ones((1, 3, 4)), [1]),
}
PICTURES = LabelledSplits(
    {
        "train": ImageSplit(np.arange(24).reshape(2, 3, 4), [0, 2]),
        "validation": ImageSplit(np.zeros((1, 3, 4)), [1]),
        "test": ImageSplit(np.ones((1, 3, 4)), [1]),
    },
    ["a", "b", "c"],
)


def assert_equal(splits, expected):
    assert list(splits) == list(expected)
    assert type(splits) is type(expected)
    if isinstance(splits, LabelledSplits):
        assert splits.class_names == expected.class_names
    for name, split in splits.items():
        np.testing.assert_array_equal(split.pixels, expected[name].pixels)
        np.testing.assert_array_equal(split.labels, expected[name].labels)


class Parser:
    """Counts how often it is asked."""

    def __init__(self, splits):
        self.splits = splits
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return self.splits


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "deep" / "b.txt").write_text("b")
    return folder


@pytest.mark.parametrize("expected", [DIGITS, PICTURES])
def test_second_call_reads_what_the_first_wrote(tmp_path, source, expected):
    parse = Parser(expected)
    for _ in range(2):
        splits = load_or_parse(tmp_path / "cache", "x", [source], {}, parse)
        assert_equal(splits, expected)
    assert parse.calls == 1
    [folder] = (tmp_path / "cache").iterdir()
    assert folder.name.startswith("x-")
    files = {f"{name}.npz" for name in expected} | {"dataset.json"}
    assert {path.name for path in folder.iterdir()} == files


def test_nothing_is_kept_without_a_folder(tmp_path, source):
    parse = Parser(PICTURES)
    for _ in range(2):
        assert load_or_parse(None, "x", [source], {}, parse) is PICTURES
    assert parse.calls == 2


def edit(source):
    (source / "a.txt").write_text("longer")


def touch(source):
    os.utime(source / "a.txt", ns=(1, 1))


def add(source):
    (source / "deep" / "c.txt").write_text("")


def rename(source):
    (source / "a.txt").rename(source / "z.txt")


def move(source):
    (source / "a.txt").rename(source / "deep" / "a.txt")


@pytest.mark.parametrize("change", [edit, touch, add, rename, move])
def test_changed_sources_are_parsed_anew(tmp_path, source, change):
    parse = Parser(PICTURES)
    cache = tmp_path / "cache"
    load_or_parse(cache, "x", [source], {}, parse)
    change(source)
    load_or_parse(cache, "x", [source], {}, parse)
    assert parse.calls == 2 == len(list(cache.iterdir()))


def test_other_options_are_parsed_anew(tmp_path, source):
    parse = Parser(PICTURES)
    files = [source / "a.txt"]
    for options in ({"size": (2, 3)}, {"size": (3, 2)}, {"size": (2, 3)}):
        load_or_parse(tmp_path / "cache", "x", files, options, parse)
    assert parse.calls == 2


def test_the_cache_may_be_in_its_source(source):
    parse = Parser(PICTURES)
    for _ in range(2):
        load_or_parse(source / "cache", "x", [source], {}, parse)
    assert parse.calls == 1


def flip_byte(folder):
    path = folder / "test.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def rename_classes(folder):
    path = folder / "dataset.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps({**description, "class_names": ["no"]}))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (flip_byte, "test.npz does not match its checksum"),
        (lambda folder: (folder / "train.npz").unlink(), "FileNotFoundError"),
        (rename_classes, "labels of 'train' must be in 0..0"),
    ],
)
def test_broken_cache_is_reported_and_replaced(
    tmp_path, source, damage, problem
):
    parse = Parser(PICTURES)

    def load():
        return load_or_parse(tmp_path / "cache", "x", [source], {}, parse)

    load()
    [folder] = (tmp_path / "cache").iterdir()
    damage(folder)
    with pytest.warns(UserWarning, match=problem) as caught:
        assert_equal(load(), PICTURES)
    [warning] = caught
    assert str(folder) in str(warning.message)
    assert_equal(load(), PICTURES)
    assert parse.calls == 2


def test_failure_while_parsing_leaves_nothing(tmp_path, source):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_or_parse(tmp_path / "cache", "x", [source], {}, fail)
    assert not list((tmp_path / "cache").iterdir())


def test_missing_source(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.csv"):
        load_or_parse(
            tmp_path / "cache",
            "x",
            [tmp_path / "none.csv"],
            {},
            Parser(PICTURES),
        )


def test_urls_are_refused(source):
    with pytest.raises(ValueError, match="cache_dir='gs://bucket'"):
        load_or_parse("gs://bucket", "x", [source], {}, Parser(PICTURES))


def test_home_folder(tmp_path, source, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    load_or_parse("~/cache", "x", [source], {}, Parser(PICTURES))
    assert len(list(Path(tmp_path, "cache").iterdir())) == 1
