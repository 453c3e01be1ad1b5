"""Turns official checkpoints into presets, and presets into official names."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from typing import Any

from luna_tf.training import files
from luna_tf.training.recipes import RecipeError, setting

from . import flags, one_shot, presets

NAME = "luna-convert"
USAGE = """\
luna-convert makes a preset of an official checkpoint (fairseq, .pt), without
PyTorch and without running anything of the file. The other way round, it writes
the weights of a preset under their official names.

Usage: luna-convert --checkpoint=FILE --output=DIR [--FLAG=VALUE ...]
       luna-convert --preset=DIR --output=FILE

  luna-convert --checkpoint=luna_base_tied_512.pt --dict=dict.txt \\
    --encoder_json=encoder.json --vocab_bpe=vocab.bpe --output=luna_base
  luna-convert --preset=luna_base --output=luna_base.npz
"""
_option = functools.partial(setting, group="Conversion")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertFlags:
    """What to convert, and into what."""

    checkpoint: str | None = _option(
        "Official checkpoint of a masked language model.", default=None
    )
    preset: str | None = _option(
        "Preset to write the weights of instead.", default=None
    )
    output: str = _option(
        "Folder of the new preset; or the .npz or .safetensors file of the "
        "weights."
    )
    dict: str | None = _option(
        "The checkpoint's dictionary, dict.txt; with the next two the preset "
        "has a tokenizer.",
        default=None,
    )
    encoder_json: str | None = _option(
        "encoder.json of GPT-2's subwords.", default=None
    )
    vocab_bpe: str | None = _option(
        "vocab.bpe of GPT-2's subwords.", default=None
    )
    head: str | None = _option(
        "Classification head to take along, which makes a classifier, such as "
        "sentence_classification_head; null: a masked language model.",
        default=None,
    )
    num_heads: int | None = _option(
        "Attention heads, where the checkpoint does not say.",
        default=None,
        minimum=1,
    )
    layer_norm_offset: float | None = _option(
        "Added to layer norm gains: 1 for the newest official code, 0 for the "
        "release of 2021; null: by the gains.",
        default=None,
    )

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.preset is None):
            raise RecipeError("one of checkpoint and preset must be given.")
        subwords = ("dict", "encoder_json", "vocab_bpe")
        given = [name for name in subwords if getattr(self, name) is not None]
        if given and len(given) < len(subwords):
            missing = [name for name in subwords if name not in given]
            raise RecipeError(
                f"{', '.join(given)} without {' and '.join(missing)} is not "
                "possible: a tokenizer needs all three."
            )
        for name in ("checkpoint", *given):
            path = getattr(self, name)
            if path is not None and not os.path.exists(path):
                raise RecipeError(f"{name}={path} does not exist.")
        is_file = self.output.endswith((".npz", ".safetensors"))
        if is_file == (self.preset is None):
            source, allowed = (
                ("preset", "a .npz or .safetensors file")
                if self.checkpoint is None
                else ("checkpoint", "a new folder")
            )
            raise RecipeError(
                f"output={self.output} is not possible with {source}: allowed "
                f"is {allowed}."
            )
        if self.preset is not None:
            presets.check(self.preset)
        elif not files.is_new_folder(self.output):
            raise RecipeError(
                f"output={self.output} is not empty: allowed is a new folder."
            )


def main(argv: list[str] | None = None) -> None:
    """Console entry of `luna-convert`; ends the process with its status."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    words = sys.argv[1:] if argv is None else argv
    sys.exit(one_shot.run(NAME, USAGE, ConvertFlags, words, convert))


def convert(given: ConvertFlags) -> None:
    """Does what the flags ask for.

    Args:
        given: the checked flags.

    Raises:
        ValueError: a file is damaged, or does not fit the others.
        OSError: a file cannot be read or written.
    """
    flags.import_tensorflow()
    if given.preset is not None:
        _write_weights(given)
        return
    from luna_tf.interop import checkpoints
    from luna_tf.interop.torch_files import read_torch_file

    assert given.checkpoint is not None
    print(f"Reading {given.checkpoint} ...", flush=True)
    checkpoint = read_torch_file(given.checkpoint)
    weights = checkpoints.official_weights(checkpoint)
    options = checkpoints.options_of(checkpoint)
    arguments = checkpoints.backbone_arguments(
        weights, options, given.num_heads
    )
    preprocessor = _preprocessor(given, arguments)
    others = (given.num_heads, preprocessor, given.layer_norm_offset)
    if given.head is None:
        task = checkpoints.masked_lm(weights, options, *others)
    else:
        task = checkpoints.text_classifier(
            weights, options, given.head, *others
        )
    files.remove(given.output)  # it is empty
    files.write_folder_by(given.output, task.save_to_preset)
    print(
        f"{type(task).__name__} with {task.count_params():,} parameters in "
        f"{given.output}"
    )
    if preprocessor is None:
        print(
            "It has no tokenizer: --dict, --encoder_json and --vocab_bpe make "
            "one."
        )


def _preprocessor(given: ConvertFlags, arguments: Any) -> Any:
    if given.dict is None:
        return None
    from luna_tf import models
    from luna_tf.interop.checkpoints import gpt2_vocabulary

    texts = []
    for name in ("dict", "encoder_json", "vocab_bpe"):
        path = getattr(given, name)
        try:
            with open(path, encoding="utf-8") as file:
                texts.append(file.read())
        except UnicodeDecodeError as error:
            raise RecipeError(f"{name}={path} is not UTF-8: {error}") from error
    vocabulary, merges = gpt2_vocabulary(*texts)
    size = arguments["vocabulary_size"]
    if len(vocabulary) != size:
        raise RecipeError(
            f"dict={given.dict} gives {len(vocabulary):,} tokens, special ones "
            f"included, but the checkpoint has {size:,}."
        )
    tokenizer = models.LunaBytePairTokenizer(vocabulary, merges)
    kind = (
        models.LunaMaskedLMPreprocessor
        if given.head is None
        else models.LunaTextClassifierPreprocessor
    )
    return kind(
        tokenizer,
        sequence_length=arguments["max_sequence_length"],
        use_segments=arguments["num_segments"] > 0,
    )


def _write_weights(given: ConvertFlags) -> None:
    import numpy as np

    from luna_tf.interop import fairseq

    assert given.preset is not None
    task = presets.load_task(given.preset)
    weights = fairseq.state_dict(
        task, layer_norm_offset=given.layer_norm_offset or 0.0
    )
    if given.output.endswith(".npz"):
        np.savez(given.output, **weights)  # type: ignore[arg-type]
    else:
        try:
            from safetensors.numpy import save_file
        except ImportError as error:
            raise RecipeError(
                f"output={given.output} needs the package safetensors: pip "
                "install safetensors"
            ) from error
        copies = {k: np.ascontiguousarray(v) for k, v in weights.items()}
        save_file(copies, given.output)
    print(f"{len(weights):,} weights in {given.output}")


if __name__ == "__main__":
    main()
