"""Pictures from CIFAR-10, array files and folders; what is wrong in them."""

import pickle
import struct
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from luna_tf.data.lra.images import load_images
from luna_tf.data.lra.images_arrays import make_split, read_npz, to_grey
from luna_tf.data.lra.images_folder import read_pictures

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (40, 32, 32, 3), np.uint8)
# In an order that is not that of the classes.
LABELS = np.arange(40) * 7 % 10


def grey(pixels):
    return tf.image.rgb_to_grayscale(pixels).numpy()[..., 0]


class TestArrays:
    def test_grey_as_in_the_official_code(self):
        corners = np.stack(np.meshgrid(*3 * [[0, 1, 127, 254, 255]]), -1)
        for pixels in (COLOURS, corners.astype(np.uint8)):
            result = to_grey(pixels)
            assert result.dtype == np.uint8
            np.testing.assert_array_equal(result, grey(pixels))

    def test_what_is_grey_stays_so(self):
        values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
        pixels = np.stack(3 * [values], -1)
        np.testing.assert_array_equal(to_grey(pixels), values)
        for pixels in (values, values[..., None]):
            split = make_split(pixels, [3], "here")
            np.testing.assert_array_equal(split.pixels, values)

    def test_many_pictures(self):
        pixels = RNG.integers(0, 256, (5000, 2, 3, 3), np.uint8)
        split = make_split(pixels, np.zeros((5000, 1), np.int64), "here")
        np.testing.assert_array_equal(split.pixels, grey(pixels))
        assert split.labels.shape == (5000,)

    @pytest.mark.parametrize(
        ("pixels", "labels", "problem"),
        [
            (np.zeros((2, 4, 4)), [0, 1], "pictures must be uint8.*float64"),
            (np.zeros((2, 4), np.uint8), [0, 1], r"of shape \(2, 4\)"),
            (np.zeros((2, 4, 4, 4), np.uint8), [0, 1], r"\(2, 4, 4, 4\)"),
            (np.zeros((0, 4, 4), np.uint8), [], r"of shape \(0, 4, 4\)"),
            (np.zeros((2, 4, 4), np.uint8), [0], r"labels must .*\(2,\)"),
            (np.zeros((2, 4, 4), np.uint8), [0.0, 1.0], "float64 of shape"),
            (np.zeros((2, 4, 5), np.uint8), [0, 1], "are 4x5 pixels, not 4x4"),
        ],
    )
    def test_bad_arrays(self, pixels, labels, problem):
        with pytest.raises(ValueError, match=f"^here: .*{problem}"):
            make_split(pixels, labels, "here", (4, 4))


def arrays(**changes):
    """Ten training pictures of two classes, sorted, and four for test."""
    return {
        "x_train": np.arange(40, dtype=np.uint8).reshape(10, 2, 2),
        "y_train": np.repeat([0, 1], 5),
        "x_test": np.zeros((4, 2, 2), np.uint8),
        "y_test": np.array([[0], [1], [1], [0]], np.uint8),
        **changes,
    }


class TestNpz:
    @pytest.fixture
    def write(self, tmp_path):
        def write(**contents):
            np.savez(tmp_path / "a.npz", **contents)
            return tmp_path / "a.npz"

        return write

    def test_validation_is_the_end_of_every_class(self, write):
        splits = load_images(str(write(**arrays())), 0.2, image_size=2)
        assert list(splits) == ["train", "validation", "test"]
        assert splits.class_names == ("0", "1")
        firsts = splits["validation"].pixels[:, 0, 0].tolist()
        assert firsts == [4 * 4, 4 * 9]
        assert splits["validation"].labels.tolist() == [0, 1]
        assert splits["train"].labels.tolist() == 4 * [0] + 4 * [1]
        assert splits["test"].labels.tolist() == [0, 1, 1, 0]

    def test_class_names(self, write):
        splits = read_npz(write(**arrays(class_names=["cat", "dog", "eel"])))
        assert splits.class_names == ("cat", "dog", "eel")

    @pytest.mark.parametrize(
        ("contents", "problem"),
        [
            ({"x": [0]}, "lacks x_train, y_train, x_test, y_test, and has x"),
            (arrays(y_test=np.array([0, 1, 2, 0])), "'test' must be in 0..1"),
            (arrays(y_train=np.repeat([-1, 1], 5)), "'train' must be in 0..1"),
            (arrays(class_names=["one"]), "must be in 0..0"),
            (
                arrays(x_test=np.zeros((4, 3, 3), np.uint8)),
                ", test: .*3x3",
            ),
            (arrays(y_test=np.array([None] * 4)), "allow_pickle"),
        ],
    )
    def test_bad_contents(self, write, contents, problem):
        with pytest.raises(ValueError, match=f"a.npz.*{problem}"):
            read_npz(write(**contents))

    def test_wrong_size(self, write):
        with pytest.raises(ValueError, match="are 2x2 pixels, not 28x28"):
            load_images(write(**arrays()), image_size=28)

    def test_bad_files(self, write, tmp_path):
        path = write(**arrays())
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ValueError, match="a.npz is not an .npz file"):
            read_npz(path)
        for content in (b"", b"hello"):
            path.write_bytes(content)
            with pytest.raises(ValueError, match="a.npz is not an .npz file"):
                read_npz(path)
        np.save(tmp_path / "b.npy", np.zeros(3))
        with pytest.raises(ValueError, match="b.npy is not .*a single array"):
            read_npz(tmp_path / "b.npy")


def check_cifar(splits):
    """Of 40 pictures, 30 are for training: the last 3 for validation."""
    assert splits.class_names[3] == "cat"
    parts = {"train": (0, 27), "validation": (27, 30), "test": (30, 40)}
    assert list(splits) == list(parts)
    for name, (start, end) in parts.items():
        np.testing.assert_array_equal(
            splits[name].pixels, grey(COLOURS[start:end])
        )
        np.testing.assert_array_equal(splits[name].labels, LABELS[start:end])


class TestKerasCIFAR:
    @pytest.mark.parametrize("channels_first", [False, True])
    def test_published_split(self, monkeypatch, channels_first):
        pixels, labels = COLOURS, LABELS.astype(np.uint8)[:, None]
        if channels_first:
            pixels = np.moveaxis(pixels, -1, 1)
        parts = ((pixels[:30], labels[:30]), (pixels[30:], labels[30:]))
        monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: parts)
        check_cifar(load_images())
        with pytest.raises(ValueError, match="image_size must be 32"):
            load_images(image_size=28)

    def test_failing_download_says_what_else_to_do(self, monkeypatch):
        def fail():
            raise Exception("URL fetch failure")

        monkeypatch.setattr(keras.datasets.cifar10, "load_data", fail)
        with pytest.raises(RuntimeError) as caught:
            load_images()
        assert "URL fetch failure. Get cifar-10-python" in str(caught.value)
        assert "cifar-10-batches-py" in str(caught.value)


class Malicious:
    def __reduce__(self):
        return (print, ("executed",))


class TestCIFARBatches:
    @pytest.fixture
    def folder(self, tmp_path):
        folder = tmp_path / "cifar-10-batches-py"
        folder.mkdir()
        names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
        starts = [0, 6, 12, 18, 24, 30, 40]
        for name, start, end in zip(names, starts, starts[1:], strict=False):
            rows = np.moveaxis(COLOURS[start:end], -1, 1).reshape(-1, 3072)
            batch = {b"data": rows, b"labels": LABELS[start:end].tolist()}
            # As Python 2 wrote them.
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
        return folder

    def test_published_split(self, folder):
        check_cifar(load_images(folder))

    def test_files_of_python_2(self, folder):
        # Written there, the module had its old name and bytes were strings.
        path = folder / "test_batch"
        content = path.read_bytes().replace(
            b"cnumpy._core.multiarray", b"cnumpy.core.multiarray"
        )
        path.write_bytes(content)
        check_cifar(load_images(folder))

    def test_missing_batch(self, folder):
        (folder / "data_batch_4").unlink()
        with pytest.raises(FileNotFoundError, match="no data_batch_4 in .*Get"):
            load_images(folder)

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"", "EOFError"),
            (pickle.dumps({b"data": np.zeros((2, 7), np.uint8)}), "ValueError"),
            (pickle.dumps(Malicious()), "print is not an array"),
            (
                pickle.dumps(
                    {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10]}
                ),
                "picture 1: label 10 is not in 0..9",
            ),
        ],
    )
    def test_bad_batch(self, folder, capsys, content, problem):
        (folder / "test_batch").write_bytes(content)
        with pytest.raises(ValueError, match=f"test_batch.*{problem}"):
            load_images(folder)
        assert not capsys.readouterr().out

    def test_cut_off_batch(self, folder):
        path = folder / "data_batch_2"
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(ValueError, match="data_batch_2 is damaged"):
            load_images(folder)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def pictures(tmp_path):
    """Ten pictures of each of two classes, whose value tells their place."""
    for label in (0, 1):
        for i in range(10):
            value = np.full((4, 6), 100 * label + i, np.uint8)
            save(tmp_path / "in" / "ab"[label] / f"{i + 5}.png", value)
    (tmp_path / "in" / ".hidden").mkdir()
    (tmp_path / "in" / "a" / ".hidden").write_text("no picture")
    return tmp_path / "in"


class TestFolder:
    def test_blocks_of_every_class(self, pictures):
        splits = load_images(str(pictures))
        assert splits.class_names == ("a", "b")
        values = {n: s.pixels[:, 0, 0].tolist() for n, s in splits.items()}
        # By number: 9.png comes before 10.png.
        assert values == {
            "train": [*range(7), *range(100, 107)],
            "validation": [7, 107],
            "test": [8, 9, 108, 109],
        }
        assert splits["test"].pixels.shape == (4, 4, 6)
        assert splits["test"].labels.tolist() == [0, 0, 1, 1]

    def test_published_split(self, pictures, tmp_path):
        for name in ("train", "test"):
            (pictures / name).mkdir()
        (pictures / "a").rename(pictures / "train" / "9")
        (pictures / "b").rename(pictures / "train" / "10")
        for label in ("9", "10"):
            save(
                pictures / "test" / label / "0.png",
                np.full((4, 6), 50, np.uint8),
            )
        splits = load_images(pictures)
        assert splits.class_names == ("9", "10")
        assert {n: len(s) for n, s in splits.items()} == {
            "train": 18,
            "validation": 2,
            "test": 2,
        }
        (pictures / "test").rename(pictures / "validation")
        for label in ("9", "10"):
            (pictures / "test" / label).mkdir(parents=True)
            save(
                pictures / "test" / label / "0.png", np.zeros((4, 6), np.uint8)
            )
        splits = load_images(pictures)
        assert splits["validation"].pixels.mean() == 50
        assert len(splits["train"]) == 20

        (pictures / "test" / "9").rename(pictures / "test" / "8")
        with pytest.raises(ValueError, match="Only one of them has '8', '9'"):
            load_images(pictures)

    def test_test_pictures_are_as_large_as_the_others(self, pictures):
        (pictures / "train").mkdir()
        for label in "ab":
            (pictures / label).rename(pictures / "train" / label)
            save(
                pictures / "test" / label / "0.png", np.zeros((4, 4), np.uint8)
            )
        with pytest.raises(ValueError, match="a/0.png: it is 4x4 .* not 4x6"):
            load_images(pictures)

    def test_kinds_of_pictures(self, tmp_path):
        colours = COLOURS[0]
        alpha = np.full((32, 32, 1), 255, np.uint8)
        alpha[:16] = 0
        save(tmp_path / "x" / "0.png", colours)
        save(tmp_path / "x" / "1.png", np.concatenate([colours, alpha], -1))
        Image.fromarray(colours[..., 0] > 99).save(tmp_path / "x" / "2.png")
        palette = Image.fromarray(colours[..., 0]).convert("P")
        palette.save(tmp_path / "x" / "3.png")
        save(tmp_path / "x" / "4.bmp", colours[..., 0])
        result = read_pictures(tmp_path, ["x"], (32, 32)).pixels
        np.testing.assert_array_equal(result[0], grey(colours))
        np.testing.assert_array_equal(result[1][16:], result[0][16:])
        assert not result[1][:16].any()
        np.testing.assert_array_equal(result[2], 255 * (colours[..., 0] > 99))
        np.testing.assert_array_equal(result[3], colours[..., 0])
        np.testing.assert_array_equal(result[4], colours[..., 0])

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"", "the file is empty .0 bytes"),
            (b"hello", "cannot be read as a picture"),
            ("cut off", "cannot be read as a picture"),
            ("size", "it is 6x4 pixels, not 4x6"),
            ("deep", "its mode is I;16, not 8-bit"),
        ],
    )
    def test_bad_picture(self, pictures, content, problem):
        path = pictures / "b" / "7.png"
        if content == "cut off":
            content = path.read_bytes()[:-30]
        elif content == "size":
            save(path, np.zeros((6, 4), np.uint8))
        elif content == "deep":
            save(path, np.zeros((4, 6), np.uint16))
        if isinstance(content, bytes):
            path.write_bytes(content)
        with pytest.raises(
            ValueError, match=f"{pictures}, b/7.png: .*{problem}"
        ):
            load_images(pictures)
        with pytest.warns(UserWarning, match="skipped 1 malformed of 20"):
            splits = load_images(pictures, skip_malformed=True)
        assert sum(map(len, splits.values())) == 19

    @pytest.mark.parametrize(
        ("side", "problem"),
        [
            # 81 MB, none of which are there.
            (9000, "it is 9000x9000 pixels, not 4x6"),
            (90_000, "decompression bomb"),
        ],
    )
    def test_wrong_size_is_found_without_unpacking(
        self, tmp_path, side, problem
    ):
        header = struct.pack(">4sIIBBBBB", b"IHDR", side, side, 8, 0, 0, 0, 0)
        checksum = struct.pack(">I", zlib.crc32(header))
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "0.png").write_bytes(
            b"\x89PNG\r\n\x1a\n\0\0\0\r"
            + header
            + checksum
            + b"\0\0\0\x01IDAT\0\x38\xcc\xa9\xd0"
        )
        with pytest.raises(ValueError, match=problem):
            read_pictures(tmp_path, ["a"], (4, 6))

    def test_no_pictures(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nothing at .*none. Give"):
            load_images(tmp_path / "none")
        with pytest.raises(FileNotFoundError, match="no folders in .*Give one"):
            load_images(tmp_path)
        (tmp_path / "a").mkdir()
        with pytest.raises(ValueError, match="holds no examples"):
            load_images(tmp_path)

    def test_what_was_read_is_kept(self, pictures, tmp_path, monkeypatch):
        cache = tmp_path / "cache"
        first = load_images(pictures, cache_dir=cache)
        with monkeypatch.context() as patch:
            patch.setattr(Image, "open", None)
            again = load_images(pictures, cache_dir=cache)
        assert again.class_names == first.class_names
        for name, split in again.items():
            np.testing.assert_array_equal(split.pixels, first[name].pixels)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"image_size": 0}, "image_size=0"),
        ({"test_fraction": 1.0}, "test_fraction=1.0"),
        ({"validation_fraction": -0.5}, "validation_fraction=-0.5"),
    ],
)
def test_bad_arguments(options, problem):
    with pytest.raises(ValueError, match=problem):
        load_images(**options)
