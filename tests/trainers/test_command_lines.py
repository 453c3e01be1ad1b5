"""The commands that the documents show are commands."""

import dataclasses
import pathlib
import re
import shlex

import pytest
from absl import flags as absl_flags
from luna_tf.trainers import (
    benchmark,
    convert,
    doctor_flags,
    export,
    finetune,
    flags,
    lra,
    lra_generate,
    mlm,
    translate,
)

from luna_tf.training import recipes

ROOT = pathlib.Path(__file__).parents[2]
TRAINERS = {
    "luna-lra": lra.PROGRAM,
    "luna-translate": translate.PROGRAM,
    "luna-mlm": mlm.PROGRAM,
    "luna-finetune": finetune.PROGRAM,
}
SCHEMAS = {
    "luna-convert": convert.ConvertFlags,
    "luna-export": export.ExportFlags,
    "luna-lra generate": lra_generate.GenerateFlags,
}


def commands(path):
    """The lines of a Markdown file's shell blocks that call our programs."""
    for block in re.findall(r"```bash\n(.*?)```", path.read_text(), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(
                    part.replace("until ", "").partition(";")[0], comments=True
                )
                if words and words[0].startswith("luna-"):
                    yield words


DOCUMENTS = ["README.md", "trainers/README.md", "tests/README.md"]
SHOWN = [words for name in DOCUMENTS for words in commands(ROOT / name)]


def understand(words):
    """Parses a command line, or fails as the program would."""
    name = " ".join(words[:2]) if words[1:2] == ["generate"] else words[0]
    if words[1:2] == ["report"]:
        assert all(w.startswith("--output_dir=") for w in words[3:])
    elif name in SCHEMAS:
        # These look at files at once, and a reader's are not here.
        values = absl_flags.FlagValues()
        recipes.define_flags(SCHEMAS[name], values)
        rest = values(words)[1 + name.count(" ") :]
        assert not rest
        given = recipes.given_flags(SCHEMAS[name], values)
        missing = dataclasses.MISSING
        for field in dataclasses.fields(SCHEMAS[name]):
            assert field.name in given or field.default is not missing
    elif name == "luna-doctor":
        doctor_flags.parse(words)
    elif name == "luna-benchmark":
        benchmark.parse(words)
    elif "--mode=evaluate" not in words:  # that asks for a finished run
        flags.parse(TRAINERS[name], words)


def test_there_are_commands():
    assert len(SHOWN) >= 20
    programs = {words[0] for words in SHOWN}
    assert programs >= {*TRAINERS, "luna-convert", "luna-export", "luna-doctor"}


@pytest.mark.parametrize("words", SHOWN, ids=" ".join)
def test_a_shown_command_is_one(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    understand(words)


def test_a_wrong_one_is_noticed():
    for words in (["luna-lra", "--depth=3"], ["luna-export", "--preset=a"]):
        with pytest.raises((SystemExit, AssertionError, absl_flags.Error)):
            understand(words)
