"""What tasks say of a batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from luna_tf.training.tasks import (
    Classification,
    MaskedTokens,
    TextClassification,
    TextRegression,
    Translation,
    smoothed_cross_entropy,
)

VOCABULARY, PAD = 11, 1


def log_softmax(logits):
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


class Echo(keras.Model):
    """Shows what it was given; logits follow from the decoder's tokens."""

    def __init__(self, dtype="float32"):
        super().__init__(dtype=dtype)
        self.table = keras.layers.Embedding(VOCABULARY, VOCABULARY, dtype=dtype)
        self.table.build()
        self.built = True
        self.seen = None

    def call(self, inputs, training=None):
        self.seen = {**inputs, "training": training}
        return self.table(inputs["decoder_token_ids"])


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)

    def rows(shape, lengths):
        ids = rng.integers(2, VOCABULARY, shape)
        ids[np.arange(shape[1]) >= np.array(lengths)[:, None]] = PAD
        return tf.constant(ids, tf.int32)

    return {
        "encoder_token_ids": rows((3, 6), [6, 2, 4]),
        "decoder_token_ids": rows((3, 5), [5, 3, 1]),
        "labels": rows((3, 5), [5, 3, 1]),
        "example_weights": tf.constant([1.0, 1.0, 0.0]),
    }


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return Echo()


class TestClassification:
    @pytest.mark.parametrize(
        ("padding_id", "tokens"), [(0, 3.0), (None, 6.0), (7, 5.0)]
    )
    def test_reads_the_input_it_is_told(self, padding_id, tokens):
        task = Classification(
            lambda x, training: x[:, :2], padding_id, "pixel_values"
        )
        scores = task(
            {
                "pixel_values": tf.constant([[0.0, 7.0, 1.0], [2.0, 0, 0]]),
                "labels": tf.constant([1, 1]),
                "example_weights": tf.constant([1.0, 0.0]),
            },
            training=False,
        )
        assert float(scores.tokens) == tokens
        np.testing.assert_array_equal(scores.predictions, [1, 0])
        np.testing.assert_array_equal(scores.metrics["accuracy"], [1, 0])
        np.testing.assert_array_equal(scores.weights, [1, 0])


class TestTranslation:
    def test_gives_the_model_ids_and_masks(self, model, batch):
        Translation(model)(batch, training=True)
        seen = model.seen
        assert seen.pop("training") is True
        assert all(tensor.dtype == tf.int32 for tensor in seen.values())
        for side in ("encoder", "decoder"):
            ids = batch[f"{side}_token_ids"].numpy()
            mask = seen.pop(f"{side}_padding_mask").numpy()
            np.testing.assert_array_equal(mask, ids != PAD)
            np.testing.assert_array_equal(seen.pop(f"{side}_token_ids"), ids)
        assert not seen

    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_losses_and_metrics(self, model, batch, smoothing, training):
        scores = Translation(model, smoothing)(batch, training=training)
        logits = model.table(batch["decoder_token_ids"]).numpy()
        log_p = log_softmax(logits.astype(np.float64))
        labels = batch["labels"].numpy()
        nll = -np.take_along_axis(log_p, labels[..., None], -1)[..., 0]
        smoothed = (1 - smoothing) * nll - smoothing * log_p.mean(axis=-1)
        expected = smoothed if training else nll
        np.testing.assert_allclose(scores.losses, expected, rtol=1e-5)
        np.testing.assert_allclose(scores.metrics["nll"], nll, rtol=1e-5)
        np.testing.assert_array_equal(
            scores.metrics["accuracy"], logits.argmax(axis=-1) == labels
        )
        # The last row only fills the batch, the padding counts nowhere.
        weights = (labels != PAD) * [[1.0], [1.0], [0.0]]
        np.testing.assert_array_equal(scores.weights, weights)
        assert weights.sum() == 8
        assert float(scores.tokens) == 12 + 9
        np.testing.assert_allclose(
            scores.predictions, (nll * weights).sum(axis=1), rtol=1e-5
        )
        assert tuple(scores.metrics) == Translation.metrics

    def test_another_padding(self, model, batch):
        scores = Translation(model, padding_id=0)(batch, training=False)
        assert float(scores.tokens) == 18 + 15

    @pytest.mark.parametrize("smoothing", [-0.1, 1.0])
    def test_refuses_smoothing_out_of_range(self, model, smoothing):
        with pytest.raises(ValueError, match="label_smoothing must be at le"):
            Translation(model, smoothing)


class TestSmoothedCrossEntropy:
    def gradients(self, function, logits, dtype="float32"):
        """Of a weighted sum of losses and likelihoods."""
        rng = np.random.default_rng(1)
        weights = tf.constant(rng.normal(size=(2, *logits.shape[:2])), dtype)
        logits = tf.constant(logits, dtype)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses, nll = function(logits)
            total = tf.reduce_sum(tf.stack([losses, nll]) * weights)
        return losses, tape.gradient(total, logits)

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    @pytest.mark.parametrize("scale", [1.0, 100.0])
    def test_the_gradient_is_that_of_the_formula(self, smoothing, scale):
        rng = np.random.default_rng(0)
        logits = rng.normal(size=(2, 3, VOCABULARY)) * scale
        labels = tf.constant(rng.integers(0, VOCABULARY, (2, 3)), tf.int32)

        def formula(logits):
            log_p = tf.nn.log_softmax(logits)
            nll = -tf.gather(log_p, labels, axis=-1, batch_dims=2)
            mean = tf.reduce_mean(log_p, axis=-1)
            return (1 - smoothing) * nll - smoothing * mean, nll

        def ours(logits):
            return smoothed_cross_entropy(labels, logits, smoothing)[:2]

        expected = self.gradients(formula, logits, "float64")
        for wrapped in (ours, tf.function(ours, jit_compile=True)):
            got = self.gradients(wrapped, logits)
            for one, other in zip(got, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)

    def test_is_float32_and_the_gradient_is_in_the_model_s_format(self):
        logits = tf.constant([[[1.0, 2.0, 2.0]]], tf.bfloat16)
        labels = tf.constant([[2]])
        with tf.GradientTape() as tape:
            tape.watch(logits)
            scores = smoothed_cross_entropy(labels, logits, 0.1)
        assert {score.dtype for score in scores} == {tf.float32}
        assert tape.gradient(scores[0], logits).dtype == tf.bfloat16
        # Of equal logits the first is the model's choice.
        assert float(scores[2][0, 0]) == 0.0


class OfTokens(keras.Model):
    """Outputs that follow from each token; shows what it was given."""

    def __init__(self, width):
        super().__init__()
        self.table = keras.layers.Embedding(VOCABULARY, width)
        self.table.build()
        self.built = True
        self.seen = None

    def call(self, inputs, training=None):
        self.seen = {**inputs, "training": training}
        x = self.table(inputs["token_ids"])
        if "mask_positions" in inputs:
            return tf.gather(x, inputs["mask_positions"], batch_dims=1)
        return x[:, 0]


class TestTexts:
    TOKENS = tf.constant([[5, 6, PAD], [7, PAD, PAD]])
    WEIGHTS = tf.constant([1.0, 0.0])

    def test_masked_tokens(self):
        model = OfTokens(VOCABULARY)
        sizes = np.arange(VOCABULARY)
        task = MaskedTokens(model, PAD, sizes)
        assert task.metrics == ("accuracy", "bytes")
        labels = tf.constant([[5, 2], [3, 0]])
        scores = task(
            {
                "token_ids": self.TOKENS,
                "mask_positions": tf.constant([[0, 1], [0, 0]]),
                "labels": labels,
                "mask_weights": tf.constant([[1.0, 1.0], [1.0, 0.0]]),
                "example_weights": self.WEIGHTS,
            },
            training=False,
        )
        mask = model.seen["padding_mask"].numpy()
        assert mask.tolist() == [[1, 1, 0], [1, 0, 0]]
        assert float(scores.tokens) == 3
        assert scores.weights.numpy().tolist() == [[1, 1], [0, 0]]
        assert scores.metrics["bytes"].numpy().tolist() == [[5, 2], [3, 0]]
        table = np.array(keras.ops.convert_to_numpy(model.table.embeddings))
        expected = -log_softmax(table[[5, 6]])[[0, 1], [5, 2]]
        np.testing.assert_allclose(scores.losses[0], expected, atol=1e-5)

    def test_classification_with_a_mask(self):
        model = OfTokens(3)
        batch = {
            "token_ids": self.TOKENS,
            "labels": tf.constant([0, 2]),
            "example_weights": self.WEIGHTS,
        }
        scores = TextClassification(model, PAD)(batch, training=True)
        mask = model.seen["padding_mask"].numpy()
        assert mask.tolist() == [[1, 1, 0], [1, 0, 0]]
        assert model.seen["training"] and float(scores.tokens) == 3
        assert scores.losses.shape == (2,)

    def test_regression(self):
        model = OfTokens(1)
        batch = {
            "token_ids": self.TOKENS,
            "labels": tf.constant([0.5, -2.0]),
            "example_weights": self.WEIGHTS,
        }
        scores = TextRegression(model, PAD)(batch, training=False)
        table = np.array(keras.ops.convert_to_numpy(model.table.embeddings))
        errors = table[[5, 7], 0] - [0.5, -2.0]
        np.testing.assert_allclose(scores.losses, errors**2, atol=1e-6)
        np.testing.assert_allclose(
            scores.metrics["absolute_error"], abs(errors), atol=1e-6
        )
