"""What a run writes about itself."""

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys

import pytest

from luna_tf.training import environment

needs_git = pytest.mark.skipif(not shutil.which("git"), reason="needs git")


def git(folder, *arguments):
    settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder)]
    done = subprocess.run(
        ["git", *settings, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder for which git looks no further up, with no settings."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    return tmp_path / "outside"


@pytest.fixture
def checkout(outside):
    package = outside / "package"
    package.mkdir(parents=True)
    (package / "code.py").write_text("1\n")
    (outside / ".gitignore").write_text("environment\n")
    git(outside, "init", "-q")
    git(outside, "add", ".")
    git(outside, "commit", "-q", "-m", "one")
    return outside


@needs_git
class TestRevision:
    def test_of_a_clean_checkout(self, checkout):
        revision = environment.git_revision(checkout / "package")
        assert revision == git(checkout, "rev-parse", "HEAD")
        assert re.fullmatch("[0-9a-f]{40}", revision)

    def test_of_a_changed_one(self, checkout):
        (checkout / "package" / "code.py").write_text("2\n")
        head = git(checkout, "rev-parse", "HEAD")
        found = environment.git_revision(checkout / "package")
        assert found == f"{head}+changes"

    def test_results_of_a_run_are_no_change(self, checkout):
        (checkout / "package" / "results.json").write_text("{}")
        head = git(checkout, "rev-parse", "HEAD")
        assert environment.git_revision(checkout / "package") == head

    def test_of_a_package_inside_of_anothers_checkout(self, checkout):
        # Such as a virtual environment, which git was told to ignore.
        installed = checkout / "environment" / "luna_tf"
        installed.mkdir(parents=True)
        (installed / "code.py").write_text("1\n")
        assert environment.git_revision(installed) is None

    def test_before_the_first_commit(self, outside):
        outside.mkdir()
        (outside / "code.py").write_text("1\n")
        git(outside, "init", "-q")
        git(outside, "add", ".")
        assert environment.git_revision(outside) is None

    def test_outside_of_a_checkout(self, outside):
        outside.mkdir()
        assert environment.git_revision(outside) is None


def test_no_revision_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.git_revision() is None


def test_describes_this_process_in_json(monkeypatch):
    monkeypatch.setattr(environment, "git_revision", lambda: "abc")
    found = environment.describe(["luna-lra", "--config=quick"])
    assert json.loads(json.dumps(found)) == found
    assert found["command"] == ["luna-lra", "--config=quick"]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["time"])
    assert any("CPU:0" in device for device in found["devices"])
    assert found["git_revision"] == "abc"
    for name in ("keras", "luna-tf", "numpy"):
        assert found["packages"][name] == importlib.metadata.version(name)


def test_packages_that_are_not_installed_are_left_out(monkeypatch):
    def version(name):
        if name == "keras":
            return "1.2"
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert environment.describe()["packages"] == {"keras": "1.2"}
