"""The notebooks of colab/, executed from end to end as they are in git."""

import base64
import io
import pathlib
import re

import nbformat
import pytest
import tensorflow as tf
from nbclient import NotebookClient

from luna_tf.visualize import training_curves

FOLDER = pathlib.Path(__file__).parents[2] / "colab"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# Figures that each shows with the small switch.
FIGURES = {
    "lra_tpu": 2,
    "mlm_pretrain_tpu": 3,
    "quickstart": 3,
    "translate": 2,
}
# Texts in which attention is marked.
MARKED_TEXTS = {"lra_tpu": 4, "quickstart": 1}
BADGE = re.compile(
    r"\[!\[Open in Colab\]\(https://colab\.research\.google\.com/assets/"
    r"colab-badge\.svg\)\]\(https://colab\.research\.google\.com/github/"
    r"([\w-]+/[\w-]+)/blob/main/(.*?)\)"
)


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def coloured(picture):
    """Pixels that are no shade of grey."""
    rgb = picture[..., :3].astype(int)
    return int((rgb.max(-1) - rgb.min(-1) > 40).sum())


def test_an_empty_figure_is_told_from_one_with_data():
    for history, least, most in (
        ({"step": []}, 0, 100),
        ({"step": [1, 2, 3], "train_loss": [3.0, 2.0, 1.0]}, 101, 10**6),
    ):
        file = io.BytesIO()
        training_curves(history).savefig(file)
        picture = tf.io.decode_png(file.getvalue()).numpy()
        assert least <= coloured(picture) <= most


def test_all_notebooks_are_known():
    assert [path.stem for path in NOTEBOOKS] == sorted(FIGURES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestAsInGit:
    def test_outputs_are_cleared(self, path):
        notebook = read(path)
        nbformat.validate(notebook)
        for cell in code(notebook):
            assert cell.outputs == [] and cell.execution_count is None

    def test_the_badge_opens_this_file(self, path):
        notebook = read(path)
        (found,) = BADGE.findall(notebook.cells[0].source)
        home, file = found
        assert file == f"colab/{path.name}"
        install, *others = code(notebook)
        assert install.metadata.tags == ["install"]
        assert f"git+https://github.com/{home}" in install.source
        assert not any("pip install" in cell.source for cell in others)

    def test_the_tpu_is_left_to_the_commands(self, path):
        """A process that imports TensorFlow for TPUs holds the TPU."""
        install = code(read(path))[0].source
        refuse = install.index('os.environ["TPU_LOAD_LIBRARY"] = "0"')
        imported = install.index("import tensorflow")
        allow = install.index('del os.environ["TPU_LOAD_LIBRARY"]')
        assert refuse < imported < allow

    def test_a_command_that_fails_ends_the_run(self, path):
        for cell in code(read(path)):
            lines = cell.source.splitlines()
            if any(line.startswith("!luna-") for line in lines):
                assert lines[-1] == "assert _exit_code == 0"

    def test_one_cell_switches_between_small_and_large(self, path):
        cells = [
            cell for cell in code(read(path)) if cell.source.startswith("SIZE")
        ]
        (cell,) = cells
        assert cell.metadata.tags == ["parameters"]
        assert cell.source.startswith('SIZE = "small"  # or "large"')
        assert '"large":' in cell.source

    def test_it_is_made_for_reading(self, path):
        for cell in code(read(path)):
            lines = cell.source.splitlines()
            assert len(lines) <= 30
            assert max(map(len, lines)) <= 88

    def test_it_links_the_paper(self, path):
        text = "".join(cell.source for cell in read(path).cells)
        assert "https://arxiv.org/abs/2106.01540" in text
        assert "2106.01540#S3.E4" in text


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_shows_figures(path, tmp_path):
    notebook = read(path)
    client = NotebookClient(
        notebook,
        timeout=1200,
        kernel_name="python3",
        resources={"metadata": {"path": tmp_path}},
    )
    client.execute()
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    texts = "".join(output.get("text", "") for output in outputs)
    assert "Traceback" not in texts, texts[-3000:]
    if "!luna-" in "".join(cell.source for cell in code(notebook)):
        assert "Devices: one device, CPU" in texts
    pictures = [
        tf.io.decode_png(base64.b64decode(output.data["image/png"])).numpy()
        for output in outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == FIGURES[path.stem]
    for picture in pictures:
        assert min(picture.shape[:2]) > 100
        assert coloured(picture) > 100  # more than axes and labels
    marked = [
        x.data["text/html"] for x in outputs if "text/html" in x.get("data", {})
    ]
    assert len(marked) == MARKED_TEXTS.get(path.stem, 0)
    assert all("rgba(" in text for text in marked)
