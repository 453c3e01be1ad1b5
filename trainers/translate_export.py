"""What a trained translator is exported as."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_tf.training import files

if TYPE_CHECKING:
    import keras

    from luna_tf.data.parallel import Vocabulary

    from .translate_recipe import TranslateRecipe


def export(
    network: keras.Model,
    recipe: TranslateRecipe,
    vocabulary: Vocabulary,
    folder: str,
) -> None:
    """Writes a preset of KerasHub and a SavedModel from text to text.

    Args:
        network: trained `LunaSeq2SeqLM`, in float32.
        recipe: its recipe.
        vocabulary: its subwords.
        folder: the model_dir; `preset` and `saved_model` there are replaced.
    """
    from luna_tf.interop.translation import export_translator

    print("Exporting ...", flush=True)
    preset = make_preset(network, recipe, vocabulary)
    path = files.join(folder, "preset")
    files.remove(path)  # of a run that goes on
    files.write_folder_by(path, preset.save_to_preset)
    path = files.join(folder, "saved_model")
    files.remove(path)
    export_translator(
        network,
        vocabulary.proto,
        path,
        recipe.max_length,
        recipe.beam_size,
        recipe.length_penalty,
        recipe.max_length_ratio,
    )


def make_preset(
    network: keras.Model, recipe: TranslateRecipe, vocabulary: Vocabulary
) -> keras.Model:
    """The same model with its subwords, for strings.

    Args:
        network: trained `LunaSeq2SeqLM`.
        recipe: its recipe.
        vocabulary: its subwords.

    Returns:
        `LunaSeq2SeqLM` with a preprocessor; it shares all weights.
    """
    from luna_tf.models import (
        LunaSeq2SeqLM,
        LunaSeq2SeqLMPreprocessor,
        LunaSeq2SeqTokenizer,
    )

    preprocessor = LunaSeq2SeqLMPreprocessor(
        LunaSeq2SeqTokenizer(vocabulary.proto),
        encoder_sequence_length=recipe.max_length,
        decoder_sequence_length=recipe.max_length,
    )
    return LunaSeq2SeqLM(network.backbone, preprocessor)
