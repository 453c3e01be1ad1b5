"""Settings that must precede the import of TensorFlow."""

import os

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
