"""The README.md that goes with a preset."""

import pathlib

_TEXT = """\
---
library_name: keras-hub
---
# {cls}

A preset of `luna_tf`, which builds on KerasHub. Import its models first, or
KerasHub will not know the class that this folder names:

```python
import keras_hub
import luna_tf.models

backbone = keras_hub.models.Backbone.from_preset("path/to/this/folder")
{task}```

To fine-tune, `model.compile(...)` it anew: a preset holds weights, vocabulary
and configuration, not an optimizer.

Parameters: {parameters:,}

| argument | value |
|---|---|
{rows}
"""

_GENERATION = """\
model = keras_hub.models.{task}.from_preset("path/to/this/folder")
print(model.generate("some text"))
"""
_ENCODER = """\
# As what the folder was saved:
model = keras_hub.models.MaskedLM.from_preset("path/to/this/folder")
model = keras_hub.models.TextClassifier.from_preset("path/to/this/folder")
# A masked language model with a new head:
model = keras_hub.models.TextClassifier.from_preset(
    "path/to/this/folder", num_classes=2
)
"""


def write_model_card(preset_dir: str, backbone, task: str) -> None:
    """Describes a saved backbone in `preset_dir/README.md`.

    An existing file is left alone: people edit model cards.

    Args:
        preset_dir: str, an existing folder.
        backbone: the `keras_hub.models.Backbone` that was saved there.
        task: str, the KerasHub class that opens the folder.
    """
    path = pathlib.Path(preset_dir) / "README.md"
    if path.exists():
        return
    config = backbone.get_config()
    skipped = ("name", "trainable", "dtype")
    rows = [f"| `{k}` | `{v}` |" for k, v in config.items() if k not in skipped]
    example = _ENCODER if task == "MaskedLM" else _GENERATION
    text = _TEXT.format(
        cls=type(backbone).__name__,
        task=example.format(task=task),
        parameters=backbone.count_params(),
        rows="\n".join(rows),
    )
    path.write_text(text, encoding="utf8")
