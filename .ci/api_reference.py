"""Writes the API reference from docstrings; any warning is an error.

Usage: python .ci/api_reference.py FOLDER
"""

import os
import pathlib
import sys
import warnings

os.environ["PDOC_ALLOW_EXEC"] = "1"  # TensorFlow asks for the processor

import pdoc  # noqa: E402

import luna_tf  # noqa: E402

# Packages that name what is public hide their modules: these are named here.
root = pathlib.Path(luna_tf.__file__).parent
packages = [
    path.parent
    for path in sorted(root.rglob("__init__.py"))
    if "__all__" in path.read_text(encoding="utf-8")
]
names = ["luna_tf"]
for package in packages:
    for path in sorted(package.iterdir()):
        name = path.stem
        is_module = path.suffix == ".py" or (path / "__init__.py").exists()
        if is_module and not name.startswith("_"):
            parts = path.relative_to(root.parent).with_suffix("").parts
            names.append(".".join(parts))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    pdoc.render.configure(docformat="google", footer_text="luna_tf")
    pdoc.pdoc(*names, output_directory=pathlib.Path(sys.argv[1]))
# Packages warn about their own affairs while they are imported.
ours = [
    w for w in caught if "pdoc" in w.filename or "luna_tf" in str(w.message)
]
for warning in ours:
    print(warning.message, file=sys.stderr)
sys.exit(1 if ours else 0)
