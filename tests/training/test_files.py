"""Files that appear whole or not at all, on a disk and beyond."""

import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from luna_tf.training import files


@pytest.fixture(params=["local", "ram"])
def folder(request, tmp_path):
    """A folder on a disk, and one that only TensorFlow's files reach."""
    folder = str(tmp_path)
    if request.param == "ram":
        folder = f"ram://{tmp_path.name}/run"
    files.prepare_folder(folder)
    return folder


def names(folder):
    return sorted(tf.io.gfile.listdir(folder))


class TestPaths:
    @pytest.mark.parametrize(
        ("folder", "joined"),
        [
            ("run", "run/a/b"),
            ("/run/", "/run/a/b"),
            ("gs://bucket", "gs://bucket/a/b"),
            (Path("run"), "run/a/b"),
        ],
    )
    def test_join(self, folder, joined):
        assert files.join(folder, "a", "b") == joined

    def test_remote_ones_name_their_file_system(self):
        assert files.is_remote("gs://bucket/run")
        assert not files.is_remote("/run/a:b")


class TestWriting:
    def test_text_comes_back_as_it_was(self, folder):
        path = files.join(folder, "text")
        for text in ("Zürich\r\n", "", "later"):
            files.write_text(path, text)
            assert files.read_text(path) == text
        assert names(folder) == ["text"]

    def test_by_a_function_of_local_files(self, folder):
        path = files.join(folder, "numbers.npz")
        files.write_by(path, lambda local: np.savez(local, numbers=[1]))
        # NumPy adds the ending where it is missing: it must not be.
        files.write_by(path, lambda local: np.savez(local, numbers=[1, 2]))
        assert names(folder) == ["numbers.npz"]
        found = []
        files.read_by(path, lambda local: found.append(np.load(local)))
        assert found[0]["numbers"].tolist() == [1, 2]

    def test_a_folder_by_a_function_of_local_folders(self, folder):
        path = files.join(folder, "preset")

        def write(local):
            below = Path(local) / "assets"
            below.mkdir(parents=True)
            (Path(local) / "config.json").write_text("{}")
            (below / "words").write_bytes(b"a b")

        files.write_folder_by(path, write)
        assert names(folder) == ["preset"]
        assert files.read_text(files.join(path, "config.json")) == "{}"
        assert files.read_text(files.join(path, "assets", "words")) == "a b"

    def test_a_function_that_fails_leaves_the_old_file(self, folder):
        path = files.join(folder, "text")
        files.write_text(path, "old")

        def write(local):
            Path(local).write_text("half")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            files.write_by(path, write)
        assert files.read_text(path) == "old"
        assert names(folder) == ["text"]

    @pytest.mark.parametrize(
        "write",
        [
            lambda path: files.write_text(path, "new"),
            lambda path: files.write_by(
                path, lambda local: Path(local).write_text("new")
            ),
        ],
    )
    def test_a_kill_leaves_the_old_file_or_the_new_one(
        self, tmp_path, monkeypatch, write
    ):
        path = tmp_path / "text"
        path.write_text("old")
        seen = []
        rename = tf.io.gfile.rename

        def killed(source, target, overwrite):
            # All is written, and to a file next to it: on one disk.
            seen.append((Path(source).read_text(), Path(source).parent))
            seen.append(path.read_text())
            rename(source, target, overwrite)

        monkeypatch.setattr(tf.io.gfile, "rename", killed)
        write(str(path))
        assert seen == [("new", tmp_path), "old"]
        assert path.read_text() == "new"

    def test_what_a_killed_write_left_is_no_hindrance(self, tmp_path):
        # Not on ram://, which goes on at the end of a file that is there.
        path = tmp_path / "text"
        left = tmp_path / "text.unfinished"
        left.write_text("half, and longer than the new content")
        files.write_text(str(path), "new")
        assert path.read_text() == "new"
        left.write_text("half, and longer than the new content")
        files.write_by(str(path), lambda local: Path(local).write_text("by"))
        assert path.read_text() == "by"
        assert names(str(tmp_path)) == ["text"]

    def test_reading_by_path_makes_no_copy_of_a_local_file(self, tmp_path):
        path = str(tmp_path / "text")
        files.write_text(path, "text")
        found = []
        files.read_by(path, found.append)
        assert found == [path]


class TestRemoving:
    def test_files_folders_and_nothing(self, folder):
        deep = files.join(folder, "a", "b")
        files.prepare_folder(deep)
        for path in (files.join(deep, "c"), files.join(folder, "d")):
            files.write_text(path, "text")
        files.remove(files.join(folder, "d"))
        assert names(folder) == ["a"]
        files.remove(files.join(folder, "a"))
        assert names(folder) == []
        files.remove(files.join(folder, "a"))


class TestPreparing:
    def test_makes_the_folder_and_leaves_nothing_in_it(self, folder):
        new = files.join(folder, "a", "b")
        assert not files.exists(new)
        files.prepare_folder(new)
        assert files.exists(new)
        assert names(new) == []

    def test_keeps_what_is_there(self, folder):
        files.write_text(files.join(folder, "text"), "text")
        files.prepare_folder(folder)
        assert names(folder) == ["text"]

    @pytest.mark.parametrize("place", ["file", "file/run"])
    def test_below_a_file_is_an_os_error(self, tmp_path, place):
        (tmp_path / "file").write_text("text")
        with pytest.raises(OSError) as error:
            files.prepare_folder(str(tmp_path / place))
        assert "file" in str(error.value)
        assert (tmp_path / "file").read_text() == "text"

    def test_a_read_only_folder_is_an_os_error(
        self, tmp_path, without_privileges
    ):
        tmp_path.chmod(0o500)
        denied = pytest.raises(OSError, match="denied")
        with without_privileges(tmp_path), denied:
            files.prepare_folder(str(tmp_path))

    def test_an_unknown_file_system_is_an_os_error(self):
        with pytest.raises(OSError, match="nosuch"):
            files.prepare_folder("nosuch://bucket/run")

    def test_a_disk_that_takes_no_bytes_is_an_os_error(
        self, tmp_path, monkeypatch
    ):
        class Full(io.BytesIO):
            def write(self, _):
                raise tf.errors.ResourceExhaustedError(None, None, "no space")

        monkeypatch.setattr(tf.io.gfile, "GFile", lambda *_: Full())
        with pytest.raises(OSError, match="no space"):
            files.prepare_folder(str(tmp_path))
