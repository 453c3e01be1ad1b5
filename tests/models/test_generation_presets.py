"""Saving and loading of the generative models, tokenizers included."""

import json
import pathlib
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
from models.text_models import (
    SMALL,
    SOFTMAX,
    TARGETS,
    array,
    batch,
    byte_preprocessor,
    causal_lm,
    proto,
    seq2seq_lm,
    seq2seq_preprocessor,
)

from luna_tf.models import (
    LunaCausalLM,
    LunaCausalLMByteTokenizer,
    LunaCausalLMPreprocessor,
    LunaCausalLMTokenizer,
    LunaSeq2SeqBackbone,
    LunaSeq2SeqLM,
    LunaSeq2SeqLMPreprocessor,
    LunaSeq2SeqTokenizer,
)

hub = keras_hub.models


@pytest.fixture(scope="module")
def seq2seq():
    model = seq2seq_lm(seq2seq_preprocessor())
    model.compile(sampler=keras_hub.samplers.BeamSampler(num_beams=3))
    return model


@pytest.fixture(scope="module")
def preset(seq2seq, tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset")
    seq2seq.save_to_preset(str(folder))
    return folder


@pytest.fixture(scope="module")
def byte_preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bytes")
    model = causal_lm(byte_preprocessor(), vocabulary_size=256)
    model.save_to_preset(str(folder))
    return folder


def assert_same(a, b):
    np.testing.assert_allclose(array(a(batch())), array(b(batch())), atol=1e-6)


def test_base_classes_find_ours(preset, seq2seq):
    model = hub.Seq2SeqLM.from_preset(str(preset))
    assert type(model) is LunaSeq2SeqLM
    assert_same(model, seq2seq)
    assert model.preprocessor.encoder_sequence_length == 12
    assert model.preprocessor.decoder_sequence_length == 10
    assert model.preprocessor.tokenizer.proto == proto()
    backbone = hub.Backbone.from_preset(str(preset))
    assert type(backbone) is LunaSeq2SeqBackbone
    assert type(hub.Tokenizer.from_preset(str(preset))) is LunaSeq2SeqTokenizer
    preprocessor = hub.Seq2SeqLMPreprocessor.from_preset(
        str(preset), decoder_sequence_length=7
    )
    assert type(preprocessor) is LunaSeq2SeqLMPreprocessor
    assert preprocessor({"encoder_text": "light", "decoder_text": "luz"})[
        1
    ].shape == (7,)


def test_an_own_class_and_another_precision(preset):
    model = LunaSeq2SeqLM.from_preset(str(preset), dtype="bfloat16")
    assert model.backbone.encoder_blocks[0].compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    "method,arguments",
    [("fit", dict(shuffle=False)), ("evaluate", {}), ("predict", {})],
)
def test_a_preset_with_another_vocabulary_does_not_train(
    preset, method, arguments
):
    # The tokenizer's vocabulary comes after the constructors.
    other = LunaSeq2SeqTokenizer(proto(vocabulary_size=31))
    model = hub.Seq2SeqLM.from_preset(str(preset))
    model.preprocessor.tokenizer = other
    model.compile(optimizer="sgd")
    pairs = {"encoder_text": TARGETS, "decoder_text": TARGETS}
    pairs = {name: np.array(texts) for name, texts in pairs.items()}
    with pytest.raises(ValueError, match="`vocabulary_size`, 30. Got: 31"):
        getattr(model, method)(pairs, verbose=0, **arguments)


def test_presets_say_what_to_import(preset, seq2seq):
    card = (preset / "README.md").read_text(encoding="utf8")
    assert "import luna_tf.models" in card
    assert "keras_hub.models.Seq2SeqLM.from_preset" in card
    assert f"{seq2seq.backbone.count_params():,}" in card
    assert "| `packed_length` | `3` |" in card


def test_an_edited_model_card_stays(seq2seq, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    seq2seq.backbone.save_to_preset(str(tmp_path))
    assert (tmp_path / "README.md").read_text() == "mine"


def test_presets_name_the_package(preset):
    for name in ("config", "task", "preprocessor", "tokenizer"):
        config = json.loads((preset / f"{name}.json").read_text())
        assert config["registered_name"].startswith("luna_tf>"), name


def test_the_baseline_has_presets_too(tmp_path):
    model = seq2seq_lm(**SOFTMAX)
    model.backbone.save_to_preset(str(tmp_path))
    again = hub.Backbone.from_preset(str(tmp_path))
    name = "decoder_sequence_output"
    np.testing.assert_allclose(
        again(batch())[name], model.backbone(batch())[name], atol=1e-6
    )


def test_keras_files_keep_sampler_and_vocabulary(seq2seq, tmp_path):
    path = tmp_path / "model.keras"
    seq2seq.save(path)
    model = keras.saving.load_model(path)
    assert_same(model, seq2seq)
    assert model.sampler.num_beams == 3
    assert model.preprocessor.tokenizer.proto == proto()
    assert model.get_config() == seq2seq.get_config()


def test_keras_files_keep_the_state_of_the_optimizer(tmp_path):
    path = tmp_path / "model.keras"
    model = seq2seq_lm(num_layers=1)
    model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    model.optimizer.build(model.trainable_variables)
    for variable in model.optimizer.variables[2:]:
        variable.assign(variable + 0.5)
    model.save(path)
    again = keras.saving.load_model(path)
    for a, b in zip(
        again.optimizer.variables, model.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(array(a), array(b))


@pytest.mark.parametrize("sharing", ["all", "none"])
def test_weights_of_shared_tables_are_saved_once(sharing, tmp_path):
    model = seq2seq_lm(share_embeddings=sharing)
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    again = LunaSeq2SeqLM(
        LunaSeq2SeqBackbone(**SMALL, share_embeddings=sharing)
    )
    again.load_weights(path)
    assert_same(again, model)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
def test_int8_presets_compute_the_same(tmp_path):
    model = seq2seq_lm(num_layers=1)
    model.backbone.quantize("int8")
    model.save_to_preset(str(tmp_path))
    # (`Backbone.from_preset` of KerasHub 0.32 forgets that it was quantized.)
    again = hub.Seq2SeqLM.from_preset(str(tmp_path))
    np.testing.assert_allclose(
        array(again(batch())), array(model(batch())), atol=1e-5
    )


def test_lora_files_hold_all_that_was_trained(tmp_path):
    path = str(tmp_path / "x.lora.h5")
    model, again = seq2seq_lm(), seq2seq_lm()
    model.backbone.enable_lora(2)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1)
    model.backbone.save_lora_weights(path)
    again.backbone.load_lora_weights(path)
    assert_same(again, model)


# === Language models ===


def test_byte_models_need_no_vocabulary_file(byte_preset):
    model = hub.CausalLM.from_preset(str(byte_preset))
    assert type(model) is LunaCausalLM
    tokenizer = model.preprocessor.tokenizer
    assert type(tokenizer) is LunaCausalLMByteTokenizer
    assert not tokenizer.lowercase
    assert model.preprocessor.sequence_length == 12
    card = (byte_preset / "README.md").read_text(encoding="utf8")
    assert "keras_hub.models.CausalLM.from_preset" in card


def test_subword_language_models_keep_their_tokens(tmp_path):
    tokenizer = LunaCausalLMTokenizer(proto(), start_token="<s>")
    preprocessor = LunaCausalLMPreprocessor(tokenizer, sequence_length=8)
    model = causal_lm(preprocessor)
    model.save_to_preset(str(tmp_path))
    again = hub.CausalLM.from_preset(str(tmp_path)).preprocessor
    assert again.tokenizer.start_token_id == 0
    for a, b in zip(
        again(TARGETS)[0].values(),
        preprocessor(TARGETS)[0].values(),
        strict=True,
    ):
        np.testing.assert_array_equal(array(a), array(b))


def test_a_vocabulary_needs_the_special_tokens():
    with pytest.raises(ValueError, match="`pad_token`. Missing: .'<pad>'."):
        LunaSeq2SeqTokenizer(proto(pad_piece="<blank>"))
    tokenizer = LunaSeq2SeqTokenizer(
        proto(pad_piece="<blank>"), pad_token="<blank>"
    )
    assert tokenizer.pad_token_id == 1
    assert tokenizer.special_token_ids == [1, 2]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_fresh_process_has_to_import_the_models(preset):
    program = (
        "import sys, keras_hub\n"
        "if sys.argv[2:]: import luna_tf.models\n"
        "keras_hub.models.Backbone.from_preset(sys.argv[1])"
    )
    for extra, good in ((["import"], True), ([], False)):
        result = subprocess.run(
            [sys.executable, "-c", program, str(preset), *extra],
            capture_output=True,
            text=True,
        )
        assert (result.returncode == 0) == good, result.stderr
    assert "luna_tf>LunaSeq2SeqBackbone" in result.stderr


def test_models_are_listed_and_documented():
    import luna_tf.models

    for name in luna_tf.models.__all__:
        thing = getattr(luna_tf.models, name)
        for section in ("Args:", "Call arguments:", "Returns:", "Raises:"):
            assert section in thing.__doc__, (name, section)
        assert ">>> " in thing.__doc__, name
        if "Tokenizer" not in name:
            assert keras.saving.get_registered_object(f"luna_tf>{name}")
    with pytest.raises(AttributeError, match="no attribute 'Luna'"):
        luna_tf.models.__getattr__("Luna")
    folder = pathlib.Path(luna_tf.models.__file__).parent
    assert {f"{m}.py" for m in luna_tf.models._MODULES.values()} <= {
        path.name for path in folder.iterdir()
    }
