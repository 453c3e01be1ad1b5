"""What a trained encoder is exported as."""

from __future__ import annotations

from typing import Any

from luna_tf.training import files


def export(network: Any, length: int, tokenizer: Any, folder: str) -> None:
    """Writes a preset of KerasHub and a SavedModel that takes strings.

    Args:
        network: trained `LunaMaskedLM` or `LunaTextClassifier`, in float32,
            without preprocessor.
        length: tokens of the longest text.
        tokenizer: of its token ids.
        folder: the model_dir; `preset` and `saved_model` there are replaced.
    """
    from luna_tf.interop.text_encoder import export_text_model

    print("Exporting ...", flush=True)
    task = with_preprocessor(network, length, tokenizer)
    path = files.join(folder, "preset")
    files.remove(path)  # of a run that goes on
    files.write_folder_by(path, task.save_to_preset)
    path = files.join(folder, "saved_model")
    files.remove(path)
    export_text_model(task, path)


def with_preprocessor(network: Any, length: int, tokenizer: Any) -> Any:
    """The same model for strings, with the same weights.

    Args:
        network: `LunaMaskedLM` or `LunaTextClassifier`.
        length: tokens of the longest text.
        tokenizer: of its token ids.
    """
    preprocessor = network.preprocessor_cls(tokenizer, sequence_length=length)
    config = network.get_config()
    for name in ("backbone", "preprocessor"):
        config.pop(name)
    task = type(network)(
        backbone=network.backbone, preprocessor=preprocessor, **config
    )
    task.set_weights(network.get_weights())
    return task
