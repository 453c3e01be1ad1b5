"""Official checkpoints as presets of ours."""

import json

import keras_hub
import numpy as np
import pytest
import safetensors.numpy
from golden_cases import ROOT, GoldenFile, assert_close
from luna_tf.trainers import convert

from luna_tf.interop import checkpoints
from luna_tf.interop.torch_files import read_torch_file
from luna_tf.models import LunaMaskedLM, LunaTextClassifier

FILE = str(ROOT / "torch" / "mlm_zip.pt")
pytestmark = pytest.mark.filterwarnings(
    "ignore:Skipping variable loading for optimizer"
)


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        convert.main([*map(str, arguments)])
    return end.value.code


def subword_files(folder, size=41):
    """GPT-2's files for a vocabulary of that size."""
    words = ["h", "e", "l", "o", "\u0120", "he", "ll", "hell", "hello"]
    encoder = {word: i for i, word in enumerate(words)}
    (folder / "encoder.json").write_text(json.dumps(encoder))
    merges = "#version: 0.2\nh e\nl l\nhe ll\nhell o\n"
    (folder / "vocab.bpe").write_text(merges, encoding="utf8")
    lines = [f"{encoder[w]} {100 - i}" for i, w in enumerate(reversed(words))]
    lines += [f"madeupword{i:04} 0" for i in range(size - 5 - len(words))]
    (folder / "dict.txt").write_text("\n".join(lines) + "\n")
    return [
        f"--dict={folder}/dict.txt",
        f"--encoder_json={folder}/encoder.json",
        f"--vocab_bpe={folder}/vocab.bpe",
    ]


def test_a_checkpoint_becomes_a_preset(tmp_path, capsys):
    output = tmp_path / "preset"
    subwords = subword_files(tmp_path)
    assert call(f"--checkpoint={FILE}", f"--output={output}", *subwords) == 0
    assert "LunaMaskedLM with 13,033 parameters" in capsys.readouterr().out
    model = keras_hub.models.MaskedLM.from_preset(str(output))
    assert type(model) is LunaMaskedLM
    data = GoldenFile("mlm_tied")
    tokens = data.below("pad/in/")["tokens"]
    real = tokens != 1
    places = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    logits = model(
        {
            "token_ids": tokens,
            "padding_mask": real.astype("int32"),
            "mask_positions": places.astype("int32"),
        }
    )
    expected = data.below("pad/out/")["logits"]
    assert_close(np.array(logits)[real], expected[real], 3e-5)

    tokenizer = model.preprocessor.tokenizer
    # The dictionary counts from 4, its first word is the last of GPT-2's.
    assert [int(i) for i in tokenizer("hello")] == [4]
    assert tokenizer.mask_token_id == 40
    assert model.preprocessor.sequence_length == 32

    # And back.
    file = tmp_path / "weights.npz"
    assert (
        call(f"--preset={output}", f"--output={file}", "--layer_norm_offset=1")
        == 0
    )
    with np.load(file) as z:
        for name, weights in data.weights.items():
            np.testing.assert_allclose(z[name], weights, atol=1e-6)
        arrays = dict(z)
    file = tmp_path / "weights.safetensors"
    flags = [f"--preset={output}", f"--output={file}"]
    assert call(*flags, "--layer_norm_offset=1") == 0
    found = safetensors.numpy.load_file(file)
    assert sorted(found) == sorted(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_head_becomes_a_classifier(tmp_path):
    data = GoldenFile("bert_heads_rel2021")
    options = {"encoder_attention_heads": data.meta["num_heads"]}
    tokens = data.below("pad/in/")["tokens"]
    inputs = {"token_ids": tokens, "padding_mask": (tokens != 1) * 1}
    for head, pooling in (
        ("sentence_classification_head", "first"),
        ("pooling_classification_head", "packed"),
        ("attention_classification_head", "attention"),
    ):
        model = checkpoints.text_classifier(data.weights, options, head)
        assert type(model) is LunaTextClassifier
        assert model.pooling == pooling
        expected = data.below("pad/out/")[head]
        assert_close(np.array(model(inputs, training=False)), expected, 3e-5)
    with pytest.raises(checkpoints.CheckpointError, match="Its heads: att"):
        checkpoints.text_classifier(data.weights, options, "mnli")


def test_older_names_and_layer_norms():
    weights = checkpoints.official_weights(read_torch_file(FILE))
    assert checkpoints.layer_norm_offset(weights) == 1.0
    older = {
        k.replace("encoder.", "decoder.", 1): v for k, v in weights.items()
    }
    assert checkpoints.official_weights(older).keys() == weights.keys()
    released = GoldenFile("bert_heads_rel2021").weights
    assert checkpoints.layer_norm_offset(released) == 0.0


def test_what_cannot_be_converted(tmp_path, capsys):
    output = f"--output={tmp_path / 'preset'}"

    def message(*arguments):
        assert call(*arguments) == 2
        return capsys.readouterr().err

    assert "one of checkpoint and preset" in message(output)
    assert "does not exist" in message("--checkpoint=none.pt", output)
    bad = tmp_path / "bad.pt"
    bad.write_bytes(b"text")
    assert "not a file of PyTorch" in message(f"--checkpoint={bad}", output)
    kinds = ROOT / "torch" / "kinds.pt"
    assert "no weights below" in message(f"--checkpoint={kinds}", output)
    subwords = subword_files(tmp_path, size=50)
    text = message(f"--checkpoint={FILE}", output, *subwords)
    assert "gives 50 tokens" in text and "has 41" in text
    assert "needs all three" in message(
        f"--checkpoint={FILE}", output, subwords[0]
    )
    assert "Its heads: none" in message(
        f"--checkpoint={FILE}", output, "--head=mnli"
    )
    assert "allowed is a .npz" in message(f"--preset={tmp_path}", output)
    written = tmp_path / "weights.npz"
    written.write_bytes(b"kept")
    text = message(f"--checkpoint={FILE}", f"--output={written}")
    assert "allowed is a new folder" in text and written.read_bytes() == b"kept"
    text = message(f"--checkpoint={FILE}", f"--output={tmp_path}")
    assert "is not empty" in text
    (tmp_path / "dict.txt").write_text("no count\n")
    text = message(f"--checkpoint={FILE}", output, *subwords)
    assert "dict.txt, line 1: expected a token and a count" in text
