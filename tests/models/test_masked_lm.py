"""Masked language model, classifier and their presets."""

import io
import warnings

import keras
import keras_hub
import numpy as np
import pytest
import sentencepiece
from models.text_models import array, randomize

from luna_tf.models import (
    LunaBackbone,
    LunaBytePairTokenizer,
    LunaByteTokenizer,
    LunaMaskedLM,
    LunaMaskedLMPreprocessor,
    LunaSentencePieceTokenizer,
    LunaTextClassifier,
    LunaTextClassifierPreprocessor,
    LunaWordPieceTokenizer,
)
from luna_tf.models.luna_masked_lm_preprocessor import selection_length

hub = keras_hub.models
TEXTS = ["the moon shines at night", "moons shine", "night and day"]
PIECES = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] the moon ##s shines shine at night and day"
).split()
pytestmark = pytest.mark.filterwarnings(
    # Of KerasHub and Keras, about their own doings.
    "ignore:`shuffle=True` was passed",
    "ignore:Skipping variable loading for optimizer",
    "ignore:Layer .* does not have a `quantize` method",
)


def sentence_piece():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 3),
        model_writer=model,
        vocab_size=22,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
        control_symbols=["<mask>"],
        minloglevel=2,
    )
    return LunaSentencePieceTokenizer(model.getvalue())


def byte_pairs():
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *"abdehimnostyu", "\u0120"]
    tokens += ["on", "oon", "\u0120m", "\u0120moon", "<mask>"]
    merges = ["o n", "o on", "\u0120 m", "\u0120m oon"]
    return LunaBytePairTokenizer({t: i for i, t in enumerate(tokens)}, merges)


TOKENIZERS = {
    "wordpiece": lambda: LunaWordPieceTokenizer(PIECES),
    "bytepair": byte_pairs,
    "sentencepiece": sentence_piece,
    "bytes": LunaByteTokenizer,
}


def backbone(vocabulary_size, **arguments):
    arguments = {
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 8,
        "intermediate_dim": 12,
        "packed_length": 3,
        "max_sequence_length": 20,
        **arguments,
    }
    return LunaBackbone(vocabulary_size, **arguments)


def masked_lm(tokenizer):
    preprocessor = LunaMaskedLMPreprocessor(tokenizer, sequence_length=12)
    model = LunaMaskedLM(backbone(tokenizer.vocabulary_size()), preprocessor)
    randomize(model)
    return model


@pytest.fixture(scope="module", params=TOKENIZERS)
def saved(request, tmp_path_factory):
    """A model with each kind of tokenizer, and its preset."""
    model = masked_lm(TOKENIZERS[request.param]())
    folder = str(tmp_path_factory.mktemp(request.param) / "preset")
    model.save_to_preset(folder)
    return model, folder


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    model = masked_lm(LunaWordPieceTokenizer(PIECES))
    folder = str(tmp_path_factory.mktemp("words") / "preset")
    model.save_to_preset(folder)
    return model, folder


class TestPresets:
    def test_a_base_class_finds_ours(self, saved):
        model, folder = saved
        loaded = hub.MaskedLM.from_preset(folder)
        assert type(loaded) is LunaMaskedLM
        assert type(loaded.preprocessor) is LunaMaskedLMPreprocessor
        tokenizer = loaded.preprocessor.tokenizer
        assert type(tokenizer) is type(model.preprocessor.tokenizer)
        assert loaded.preprocessor.sequence_length == 12
        x, _, _ = model.preprocessor(TEXTS)
        np.testing.assert_allclose(array(loaded(x)), array(model(x)), atol=1e-6)

    def test_the_tokenizer_is_the_same(self, saved):
        model, folder = saved
        loaded = hub.Tokenizer.from_preset(folder)
        tokenizer = model.preprocessor.tokenizer
        assert type(loaded) is type(tokenizer)
        assert loaded.special_token_ids == tokenizer.special_token_ids
        for text in TEXTS:
            assert [int(i) for i in loaded(text)] == [
                int(i) for i in tokenizer(text)
            ]

    def test_a_masked_lm_opens_as_a_classifier(self, saved):
        model, folder = saved
        classifier = hub.TextClassifier.from_preset(folder, num_classes=3)
        assert type(classifier) is LunaTextClassifier
        # As many tokens as the backbone has positions.
        assert classifier.preprocessor.sequence_length == 20
        for ours, theirs in zip(
            classifier.backbone.weights, model.backbone.weights, strict=True
        ):
            np.testing.assert_array_equal(array(ours), array(theirs))

    def test_keras_files(self, words, tmp_path):
        model, _ = words
        path = str(tmp_path / "model.keras")
        model.save(path)
        loaded = keras.saving.load_model(path)  # safe_mode
        x, _, _ = model.preprocessor(TEXTS)
        np.testing.assert_allclose(array(loaded(x)), array(model(x)), atol=1e-6)
        assert loaded.preprocessor.tokenizer.get_vocabulary() == PIECES

    def test_the_model_card(self, words, tmp_path):
        model, _ = words
        model.save_to_preset(str(tmp_path / "preset"))
        card = (tmp_path / "preset" / "README.md").read_text()
        assert "keras_hub.models.MaskedLM.from_preset" in card
        assert "generate" not in card

    def test_a_missing_file(self, words, tmp_path):
        model, _ = words
        folder = tmp_path / "preset"
        model.save_to_preset(str(folder))
        (folder / "model.weights.h5").unlink()
        with pytest.raises((ValueError, OSError), match="model.weights"):
            hub.MaskedLM.from_preset(str(folder))

    def test_a_vocabulary_of_another_size(self, words, tmp_path):
        model, _ = words
        folder = tmp_path / "preset"
        model.save_to_preset(str(folder))
        path = folder / "assets" / "tokenizer" / "vocabulary.txt"
        path.write_text("\n".join([*PIECES, "more"]))
        loaded = hub.MaskedLM.from_preset(str(folder))
        with pytest.raises(ValueError, match="`vocabulary_size`, 14. Got: 15"):
            loaded.fit(np.array(TEXTS), verbose=0)


class TestOnStrings:
    @pytest.mark.slow
    def test_fit_learns(self):
        keras.utils.set_random_seed(0)
        tokenizer = LunaWordPieceTokenizer(PIECES)
        preprocessor = LunaMaskedLMPreprocessor(tokenizer, sequence_length=8)
        model = LunaMaskedLM(backbone(14, dropout=0.0), preprocessor)
        model.compile(
            keras.optimizers.Adam(1e-2),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Gradients do not exist")
            history = model.fit(
                np.array(TEXTS * 16), batch_size=8, epochs=8, verbose=0
            )
        losses = history.history["loss"]
        assert losses[-1] < 0.8 * losses[0]

    @pytest.mark.slow
    def test_a_classifier_learns(self):
        keras.utils.set_random_seed(0)
        tokenizer = LunaWordPieceTokenizer(PIECES)
        model = LunaTextClassifier(
            backbone(14, dropout=0.0),
            2,
            LunaTextClassifierPreprocessor(tokenizer, sequence_length=8),
            pooling="attention",
            dropout=0.0,
        )
        model.compile(
            keras.optimizers.Adam(1e-2),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        x, y = np.array(["the moon", "the day"] * 16), np.array([0, 1] * 16)
        model.fit(x, y, batch_size=8, epochs=8, verbose=0)
        assert model.evaluate(x, y, verbose=0)[1] == 1.0
        pairs = (["the moon"], ["and day"])
        assert model.predict(pairs, verbose=0).shape == (1, 2)

    @pytest.mark.parametrize("pooling", ["first", "packed", "attention"])
    def test_no_weight_lacks_a_gradient(self, pooling):
        import tensorflow as tf

        model = LunaTextClassifier(backbone(14), 2, pooling=pooling)
        ids = np.array([[2, 5, 6, 3, 0]])
        with tf.GradientTape() as tape:
            outputs = model({"token_ids": ids, "padding_mask": ids > 0})
            loss = tf.reduce_sum(outputs)
        weights = [v.value for v in model.trainable_variables]
        assert all(g is not None for g in tape.gradient(loss, weights))

    def test_precision_lora_and_int8(self):
        x = {"token_ids": [[5, 6, 7]], "padding_mask": [[1, 1, 1]]}
        x = {name: np.array(values) for name, values in x.items()}
        model = LunaTextClassifier(backbone(14), 2)
        before = array(model(x))
        model.backbone.quantize("int8")
        names = {w.dtype for w in model.backbone.weights}
        assert "int8" in names
        assert 0 < np.abs(array(model(x)) - before).max() < 0.1
        model = LunaTextClassifier(backbone(14), 2)
        model.backbone.enable_lora(2)
        trained = {v.name for v in model.backbone.trainable_variables}
        assert trained == {"lora_kernel_a", "lora_kernel_b"}

    @pytest.mark.parametrize("kind", ["classifier", "tied", "untied"])
    def test_logits_are_not_rounded_in_mixed_precision(self, kind):
        half = backbone(14, dtype="mixed_bfloat16")
        ids = np.array([[2, 5, 6, 7, 8, 3]])
        x = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
        if kind == "classifier":
            model = LunaTextClassifier(half, 9)
        else:
            model = LunaMaskedLM(half, share_embeddings=kind == "tied")
            x["mask_positions"] = np.array([[1, 2, 3, 4]])
        randomize(model)
        logits = model(x)
        assert keras.backend.standardize_dtype(logits.dtype) == "float32"
        logits = keras.ops.convert_to_numpy(logits)
        rounded = keras.ops.cast(keras.ops.cast(logits, "bfloat16"), "float32")
        assert (keras.ops.convert_to_numpy(rounded) != logits).mean() > 0.5

    def test_padding_and_batch_mates_change_nothing(self):
        model = LunaTextClassifier(backbone(14), 2, pooling="packed")
        randomize(model)
        alone = np.array([[2, 5, 6, 3]])
        padded = np.array([[2, 5, 6, 3, 0, 0], [2, 9, 8, 7, 6, 3]])
        outputs = [
            array(model({"token_ids": t, "padding_mask": (t > 0) * 1}))
            for t in (alone, padded)
        ]
        np.testing.assert_allclose(outputs[1][:1], outputs[0], atol=1e-6)


class TestTokenizers:
    def test_words_and_bytes(self):
        tokenizer = LunaWordPieceTokenizer(PIECES)
        starts = dict(zip(PIECES, tokenizer.word_starts(), strict=True))
        assert not starts["##s"] and starts["moon"] and starts["[MASK]"]
        sizes = dict(zip(PIECES, tokenizer.token_bytes(), strict=True))
        assert (sizes["moon"], sizes["##s"], sizes["[MASK]"]) == (5, 1, 0)

    def test_word_pieces_count_no_space_before_punctuation(self):
        pieces = [*"[PAD] [UNK] [CLS] [SEP] [MASK] a ab ! \u6708".split()]
        sizes = LunaWordPieceTokenizer(pieces).token_bytes()
        # What [UNK] stands for is not known.
        assert sizes.tolist() == [0, 0, 0, 0, 0, 2, 3, 1, 3]

    def test_a_line_ends_a_word_of_byte_pairs(self):
        tokens = ["<s>", "<pad>", "</s>", "<mask>", "a", "\u010a"]
        tokens += ["\u0120", "\u0120a"]
        tokenizer = LunaBytePairTokenizer(
            {token: i for i, token in enumerate(tokens)}, ["\u0120 a"]
        )
        assert tokenizer.word_starts().tolist() == [1, 1, 1, 1, 0, 1, 1, 1]

    def test_byte_pairs_count_bytes(self):
        tokenizer = byte_pairs()
        ids = [int(i) for i in tokenizer("the moon")]
        assert tokenizer.token_bytes()[ids].sum() == len("the moon")
        tokens = [tokenizer.id_to_token(i) for i in ids]
        assert tokens[-1] == "\u0120moon"
        assert tokenizer.word_starts()[ids].sum() == 1

    def test_sentence_pieces_count_bytes(self):
        tokenizer = sentence_piece()
        ids = [int(i) for i in tokenizer("night and day")]
        # A space before the first word belongs to its piece.
        assert tokenizer.token_bytes()[ids].sum() == len(" night and day")
        assert tokenizer.word_starts()[ids].sum() == 3

    def test_unknown_words_have_no_bytes_and_fill_no_blank(self):
        pieces = [*"[PAD] [UNK] [CLS] [SEP] [MASK] a".split()]
        words = LunaWordPieceTokenizer(pieces)
        assert words.unguessable_token_ids == [0, 1, 2, 3, 4]
        sentence = sentence_piece()
        unknown = sentence.token_to_id("<unk>")
        assert sentence.unknown_token_id == unknown
        assert sentence.token_bytes()[unknown] == 0
        assert unknown in sentence.unguessable_token_ids
        assert LunaByteTokenizer().unknown_token_id is None

    def test_lowercase_word_pieces_have_no_accents(self):
        pieces = [*"[PAD] [UNK] [CLS] [SEP] [MASK] cafe".split()]
        tokenizer = LunaWordPieceTokenizer(pieces, lowercase=True)
        assert [int(i) for i in tokenizer("Caf\u00e9")] == [5]
        again = LunaWordPieceTokenizer.from_config(tokenizer.get_config())
        again.set_vocabulary(pieces)
        assert [int(i) for i in again("Caf\u00e9")] == [5]
        kept = LunaWordPieceTokenizer(pieces)
        assert [int(i) for i in kept("caf\u00e9")] == [1]

    def test_special_tokens_in_a_text_are_text(self):
        tokenizer = byte_pairs()
        special = set(tokenizer.special_token_ids)
        ids = [int(i) for i in tokenizer("a <s> b </s> <pad> <mask>")]
        assert not special & set(ids)

    @pytest.mark.parametrize(
        "make,missing",
        [
            (lambda: LunaWordPieceTokenizer(["[PAD]", "[UNK]"]), "[CLS]"),
            (
                lambda: LunaBytePairTokenizer(
                    {"a": 0, "b": 1, "ab": 2}, ["a b"]
                ),
                "</s>",
            ),
        ],
    )
    def test_a_vocabulary_without_special_tokens(self, make, missing):
        with pytest.raises(ValueError) as error:
            make()
        assert missing in str(error.value)


class TestPairs:
    @pytest.mark.parametrize("given,expected", [(None, 1), (2, 2)])
    def test_separators(self, given, expected):
        preprocessor = LunaTextClassifierPreprocessor(
            LunaWordPieceTokenizer(PIECES),
            sequence_length=8,
            num_separators=given,
        )
        tokenizer = preprocessor.tokenizer
        inputs = preprocessor((["the moon"], ["the day"]), y=None)
        ids = [int(i) for i in inputs["token_ids"][0]]
        first, second = (
            [int(i) for i in tokenizer(text)]
            for text in ("the moon", "the day")
        )
        end = [tokenizer.end_token_id]
        start = [tokenizer.start_token_id]
        framed = start + first + expected * end + second + end
        assert ids[: len(framed)] == framed[:8]
        assert preprocessor.get_config()["num_separators"] == expected

    def test_byte_pairs_have_two_as_the_official_models(self):
        assert LunaTextClassifierPreprocessor(byte_pairs()).num_separators == 2


class TestArguments:
    @pytest.mark.parametrize(
        "cls", [LunaMaskedLMPreprocessor, LunaTextClassifierPreprocessor]
    )
    def test_a_length_that_was_set_is_kept(self, cls):
        preprocessor = cls(LunaWordPieceTokenizer(PIECES))
        assert preprocessor.sequence_length == 512
        assert preprocessor.get_config()["sequence_length"] is None
        preprocessor.limit_length(100)
        assert preprocessor.sequence_length == 100
        assert preprocessor.get_config()["sequence_length"] is None
        preprocessor.sequence_length = 2048
        preprocessor.limit_length(100)
        assert preprocessor.sequence_length == 2048
        assert preprocessor.get_config()["sequence_length"] == 2048
        if cls is LunaMaskedLMPreprocessor:
            assert preprocessor.mask_selection_length == 307
        with pytest.raises(ValueError, match="`sequence_length`"):
            preprocessor.sequence_length = 0
        with pytest.raises(ValueError, match="`sequence_length`"):
            cls(LunaWordPieceTokenizer(PIECES), sequence_length=0)

    def test_lengths(self):
        tokenizer = LunaWordPieceTokenizer(PIECES)
        with pytest.raises(ValueError, match="`sequence_length`.*20. Got: 21"):
            LunaMaskedLM(
                backbone(14),
                LunaMaskedLMPreprocessor(tokenizer, sequence_length=21),
            )
        assert selection_length(512, 0.15) == 77
        long = LunaMaskedLMPreprocessor(tokenizer, sequence_length=65_536)
        assert long.mask_selection_length == 9831

    def test_softmax_has_no_packed_sequence(self):
        softmax = backbone(14, attention="softmax", packed_length=None)
        assert set(softmax.output) == {"sequence_output"}
        with pytest.raises(ValueError, match="`pooling` must be 'first'"):
            LunaTextClassifier(softmax, 2, pooling="packed")
        with pytest.raises(ValueError, match="`tie_key_value` must be True"):
            backbone(14, attention="softmax", tie_key_value=False)

    @pytest.mark.parametrize(
        "given,message",
        [
            (dict(mask_selection_rate=0.0), "nothing is left to learn"),
            (dict(mask_token_rate=1.2), "`mask_token_rate` must be from 0"),
            (
                dict(mask_token_rate=0.8, random_token_rate=0.3),
                "must not be more than 1 together",
            ),
        ],
    )
    def test_masks(self, given, message):
        with pytest.raises(ValueError, match=message):
            LunaMaskedLMPreprocessor(LunaByteTokenizer(), **given)

    def test_segments(self):
        model = LunaTextClassifier(
            backbone(14, num_segments=2),
            2,
            LunaTextClassifierPreprocessor(
                LunaWordPieceTokenizer(PIECES),
                sequence_length=8,
                use_segments=True,
            ),
        )
        x = model.preprocessor((["the moon"], ["day"]), y=None)
        x = {name: array(values) for name, values in x.items()}
        assert x["segment_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0, 0]]
        other = {**x, "segment_ids": np.zeros((1, 8), "int32")}
        randomize(model)
        assert np.abs(array(model(x)) - array(model(other))).max() > 1e-3
