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


def test_local_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", TEXT):
        assert (README.parent / target).exists(), target


def test_anchors_lead_to_headings():
    headings = re.findall(r"^#+ (.+)$", TEXT, re.M)
    slugs = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", TEXT):
        assert anchor in slugs, anchor
