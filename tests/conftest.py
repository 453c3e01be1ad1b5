"""Settings that must precede the import of TensorFlow."""

import contextlib
import os

import pytest

# Start-up chatter of C++ code, on the terminal of every worker.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread each: the workers share the cores.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")


def pytest_collection_modifyitems(items):
    """Puts files with long tests first: none is left to the end alone."""
    long = {
        item.path
        for item in items
        if item.get_closest_marker("slow")
        or item.get_closest_marker("multiprocess")
    }
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture
def without_privileges():
    """Makes permissions count for the superuser, too."""

    @contextlib.contextmanager
    def drop(path):
        if os.geteuid() != 0:
            yield
            return
        for parent in [path, *path.parents][:-1]:
            os.chmod(parent, parent.stat().st_mode | 0o111)
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return drop
