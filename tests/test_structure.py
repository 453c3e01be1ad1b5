"""The rules between folders, and what every public name owes its user."""

import ast
import doctest
import importlib
import pathlib
import re

import pytest
import tpu_checks

import luna_tf
from luna_tf import trainers, visualize

PACKAGE = pathlib.Path(luna_tf.__file__).parent
TRAINERS = pathlib.Path(trainers.__file__).parent

# What a room may import of the others.
ALLOWED = {
    "ops": set(),
    "layers": {"ops"},
    "models": {"ops", "layers"},
    "data": set(),
    "training": set(),
    "visualize": set(),
    "interop": {"ops", "layers", "models"},
    "benchmark": {"ops", "layers"},
}


def modules(*rooms):
    return [p for room in rooms for p in sorted((PACKAGE / room).rglob("*.py"))]


def imports(path):
    """Absolute module names that a file imports, wherever it does so."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_room_has_rules():
    rooms = {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert rooms - {"trainers"} == set(ALLOWED)


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_point_one_way(room):
    for path in modules(room):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "luna_tf" and len(parts) > 1:
                allowed = ALLOWED[room] | {room, "_startup"}
                assert parts[1] in allowed, (path, name)
            assert parts[0] != "trainers", (path, name)


def test_layers_and_ops_run_on_every_backend():
    for path in modules("ops", "layers", "models"):
        for name in imports(path):
            assert name.split(".")[0] not in ("tensorflow", "jax", "torch"), (
                path,
                name,
            )


def test_keras_internals_are_touched_in_one_place():
    touching = {
        path.name
        for path in modules(*ALLOWED)
        if any(name.startswith("keras.src") for name in imports(path))
    }
    assert touching == {"_masks.py"}


@pytest.mark.parametrize("name", visualize.__all__)
def test_public_functions_are_documented(name):
    thing = getattr(visualize, name)
    for section in ("Args:", "Returns:", "Raises:", "Example"):
        assert section in thing.__doc__, (name, section)


@pytest.mark.parametrize("name", luna_tf.__all__)
def test_public_names_are_documented(name):
    thing = getattr(luna_tf, name)
    if isinstance(thing, str):
        return
    for section in ("Args:", "Call arguments:", "Returns:", "Raises:"):
        assert section in thing.__doc__, (name, section)
    assert ">>> " in thing.__doc__, name


def sources():
    """Module name to file, of package and programs."""
    for folder in (*(PACKAGE / room for room in ALLOWED), TRAINERS):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            yield ".".join(["luna_tf", *parts]).removesuffix(".__init__"), path


def docstrings(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            yield ast.get_docstring(node) or ""


def test_examples_are_written_for_doctest():
    other = re.compile("```|Example: `")
    for name, path in sources():
        if other.search(path.read_text(encoding="utf8")):
            assert not any(map(other.search, docstrings(path))), name


def modules_with_examples():
    for name, path in sources():
        if ">>> " in path.read_text(encoding="utf8"):
            yield pytest.param(name, path, id=name)


LONG = {
    "litert": (),
    "text_encoder": (),
    "translation": (),
    "tpu.compiling": (pytest.mark.tpu_compile, tpu_checks.needs_libtpu),
    "tpu.simulate": (tpu_checks.needs_jax,),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=marks) for name, marks in LONG.items()]
)
def test_examples_that_take_long(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"luna_tf.interop.{name}")
    skipped = 0
    for test in doctest.DocTestFinder().find(module):
        for example in test.examples:
            skipped += example.options.pop(doctest.SKIP, False)
        assert doctest.DocTestRunner().run(test).failed == 0
    assert skipped


@pytest.mark.parametrize("name,path", modules_with_examples())
def test_docstring_examples_run_as_shown(name, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0
    # None where doctest does not look, such as in a nested function.
    seen = sum(len(d.examples) for d in doctest.DocTestFinder().find(module))
    parse = doctest.DocTestParser().get_examples
    assert seen == sum(len(parse(text)) for text in docstrings(path))
