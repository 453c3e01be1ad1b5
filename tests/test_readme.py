"""What the README shows runs as pasted."""

import pathlib
import re

import pytest

README = pathlib.Path(__file__).parent.parent / "README.md"
TEXT = README.read_text(encoding="utf8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_python_blocks_run(index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[index], f"README block {index}", "exec"), {})


def test_there_is_an_example_of_about_ten_lines():
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert 5 <= len(lines) <= 12


def anchors(path):
    """What links to headings of a file may end in."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf8"), re.M)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize(
    "name", ["README.md", "trainers/README.md", "tests/README.md"]
)
def test_local_links_lead_somewhere(name):
    path = README.parent / name
    text = path.read_text(encoding="utf8")
    links = re.findall(r"\]\((?!https?:|mailto:)([^)#]*)(?:#([^)]+))?\)", text)
    assert links
    for file, anchor in links:
        target = path.parent / file if file else path
        assert target.exists(), file
        if anchor:
            assert anchor in anchors(target), (file, anchor)
