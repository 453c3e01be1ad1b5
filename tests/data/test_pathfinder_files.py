"""Pathfinder pictures in the layout of the release: PNG and metadata."""

import dataclasses
import io
import re
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from luna_tf.data.lra import pathfinder_generator
from luna_tf.data.lra.pathfinder_files import (
    load_pathfinder_folder,
    read_pathfinder_folder,
    write_pathfinder_folder,
)
from luna_tf.data.lra.pathfinder_generator import PathfinderConfig, generate

CONFIG = PathfinderConfig(32, "easy", 510, seed=7)
NAME = "pathfinder32/curv_baseline"


@pytest.fixture(scope="module")
def expected():
    return generate(CONFIG, num_workers=1)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("written") / "lra"
    folder = write_pathfinder_folder(root, CONFIG, num_workers=2)
    assert folder == root / NAME
    return root


def contents(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def make_small(root, labels=(1, 0, 1)):
    """Three pictures in two files of metadata, 10 behind 9."""
    folder = root / NAME
    (folder / "metadata").mkdir(parents=True)
    for number, first, last in ((9, 0, 2), (10, 2, 3)):
        pictures = folder / "imgs" / str(number)
        pictures.mkdir(parents=True)
        lines = ""
        for i in range(first, last):
            picture = Image.fromarray(np.full((32, 32), 10 * i, np.uint8))
            picture.save(pictures / f"sample_{i}.png")
            lines += f"imgs/{number} sample_{i}.png {i} {labels[i]} 1.0 6\n"
        (folder / "metadata" / f"{number}.npy").write_text(lines)
    return folder


def png(shape, mode="L"):
    file = io.BytesIO()
    Image.fromarray(np.zeros(shape, np.uint8)).convert(mode).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def small(tmp_path):
    return make_small(tmp_path)


def test_what_is_written_is_read(written, expected):
    for path in (written, written / "pathfinder32"):
        pixels, labels = read_pathfinder_folder(path, 32, "easy")
        np.testing.assert_array_equal(pixels, expected[0])
        np.testing.assert_array_equal(labels, expected[1])
        assert (pixels.dtype, labels.dtype) == (np.uint8, np.int32)


def test_the_layout_is_that_of_the_release(written, expected):
    files = contents(written / NAME)
    assert len(files) == 510 + 2 + 1
    lines = files["metadata/1.npy"].decode().splitlines()
    assert len(lines) == 10
    label = expected[1][503]
    assert lines[3] == f"imgs/1 sample_3.png 3 {label} 1.0 6 2 2 0.5 1 1"
    with Image.open(written / NAME / "imgs/1/sample_3.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.asarray(picture), expected[0][503])


def test_splits_are_by_position(written, expected, tmp_path):
    for _ in range(2):  # the second time from the cache
        splits = load_pathfinder_folder(written, 32, "easy", False, tmp_path)
        assert list(splits) == ["train", "validation", "test"]
        np.testing.assert_array_equal(splits["train"].pixels, expected[0][:408])
        np.testing.assert_array_equal(
            splits["validation"].labels, expected[1][408:459]
        )
        np.testing.assert_array_equal(splits["test"].pixels, expected[0][459:])


def test_an_interrupted_run_is_taken_up(tmp_path, written, monkeypatch):
    class Full(Exception):
        pass

    def interrupt(done, total):
        raise Full

    with pytest.raises(Full):
        write_pathfinder_folder(tmp_path, CONFIG, 1, interrupt)
    folder = tmp_path / NAME
    # As a kill would, between the pictures and their metadata.
    (folder / "imgs/1").mkdir()
    (folder / "imgs/1/sample_77.png").write_bytes(b"half of it")
    before = (folder / "imgs/0/sample_0.png").stat().st_mtime_ns
    calls = []
    write_pathfinder_folder(
        tmp_path, CONFIG, 1, lambda *numbers: calls.append(numbers)
    )
    assert calls == [(500, 510), (510, 510)]
    assert contents(tmp_path) == contents(written)
    assert (folder / "imgs/0/sample_0.png").stat().st_mtime_ns == before
    monkeypatch.setattr(pathfinder_generator, "grow_targets", None)
    write_pathfinder_folder(tmp_path, CONFIG, 1)


def test_other_pictures_are_never_overwritten(written, small):
    before = contents(small)
    with pytest.raises(ValueError, match="is not empty, but has no dataset"):
        write_pathfinder_folder(small.parents[1], CONFIG)
    assert contents(small) == before
    other = dataclasses.replace(CONFIG, num_examples=20)
    with pytest.raises(ValueError, match="holds another data set"):
        write_pathfinder_folder(written, other)


def test_pictures_come_in_the_order_of_the_numbers(small):
    pixels, labels = read_pathfinder_folder(small.parents[1], 32, "easy")
    assert pixels[:, 0, 0].tolist() == [0, 10, 20]
    assert labels.tolist() == [1, 0, 1]


def empty_picture(folder):
    (folder / "imgs/9/sample_1.png").write_bytes(b"")


def truncated_picture(folder):
    path = folder / "imgs/9/sample_1.png"
    path.write_bytes(path.read_bytes()[:50])


def not_a_picture(folder):
    (folder / "imgs/9/sample_1.png").write_bytes(b"\xff\xfe no picture")


def large_picture(folder):
    (folder / "imgs/9/sample_1.png").write_bytes(png((32, 64)))


def colour_picture(folder):
    (folder / "imgs/9/sample_1.png").write_bytes(png((32, 32), "RGB"))


def no_picture(folder):
    (folder / "imgs/9/sample_1.png").unlink()


def replace_line(line):
    def damage(folder):
        path = folder / "metadata/9.npy"
        first = path.read_bytes().splitlines(keepends=True)[0]
        path.write_bytes(first + line)

    return damage


MALFORMED = {
    "empty": (empty_picture, "imgs/9/sample_1.png is empty (0 bytes)"),
    "truncated": (truncated_picture, "sample_1.png cannot be read as a"),
    "no picture": (not_a_picture, "sample_1.png cannot be read as a"),
    "large": (large_picture, "sample_1.png is 32x64 pixels, not 32x32"),
    "colour": (colour_picture, "has the mode RGB, not L (8-bit grey)"),
    "missing": (no_picture, "there is no file imgs/9/sample_1.png"),
    "columns": (
        replace_line(b"imgs/9 sample_1.png 1\n"),
        "expected at least 4 columns, found 3",
    ),
    "label": (
        replace_line(b"imgs/9 sample_1.png 1 2 1.0 6\n"),
        "label '2' in column 4 is not 0 or 1",
    ),
    "not UTF-8": (
        replace_line(b"imgs/9 sample_\xff.png 1 1 1.0 6\n"),
        "there is no file imgs/9/sample_",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_examples(small, name):
    damage, message = MALFORMED[name]
    damage(small)
    root = small.parents[1]
    match = f"{NAME}, metadata/9.npy, line 2: .*" + re.escape(message)
    with pytest.raises(ValueError, match=match):
        read_pathfinder_folder(root, 32, "easy")
    match = "skipped 1 malformed of 3 examples .*" + re.escape(message)
    with pytest.warns(UserWarning, match=match) as caught:
        pixels, labels = read_pathfinder_folder(root, 32, "easy", True)
    assert caught[0].filename == __file__
    assert pixels[:, 0, 0].tolist() == [0, 20]
    assert labels.tolist() == [1, 1]


def test_skipping_warns_at_the_callers_line(tmp_path, written):
    root = shutil.copytree(written, tmp_path / "lra")
    (root / NAME / "imgs/0/sample_172.png").write_bytes(b"")
    for cache_dir in (None, tmp_path / "cache"):
        with pytest.warns(UserWarning, match="skipped 1 malformed") as caught:
            splits = load_pathfinder_folder(root, 32, "easy", True, cache_dir)
        assert caught[0].filename == __file__
        assert sum(map(len, splits.values())) == 509


def test_nothing_to_skip_warns_of_nothing(small):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_pathfinder_folder(small.parents[1], 32, "easy", True)


def test_metadata_that_are_none(small):
    root = small.parents[1]
    (small / "metadata/11.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="11.npy, line 1: there is nothing"):
        read_pathfinder_folder(root, 32, "easy")
    (small / "metadata/copy.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="copy.npy: .*numbers for names"):
        read_pathfinder_folder(root, 32, "easy")
    shutil.rmtree(small / "metadata")
    (small / "metadata").mkdir()
    with pytest.raises(ValueError, match="holds no examples"):
        read_pathfinder_folder(root, 32, "easy")


def test_missing_folders_say_what_should_be_there(small, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        read_pathfinder_folder(tmp_path, 128, "hard")
    message = str(caught.value)
    assert str(tmp_path / "pathfinder128/curv_contour_length_14") in message
    assert "metadata/0.npy" in message
    assert "Long Range Arena release" in message
    with pytest.raises(ValueError, match="difficulty must be one of"):
        read_pathfinder_folder(tmp_path, 32, "normal")
    with pytest.raises(ValueError, match="at least 10 pictures"):
        load_pathfinder_folder(tmp_path, 32, "easy")
