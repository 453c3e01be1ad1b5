import keras
import numpy as np
import pytest
from keras import ops

from luna_tf.benchmark import contenders, stepping
from luna_tf.benchmark.cases import CONTENDERS, MIXED, Case, Settings

SMALL = {"width": 16, "heads": 4, "batch": 2}
LENGTH, SLOTS = 12, 3


def copy_weights(luna, textbook):
    """The textbook's (d, d) kernels are the layer's, heads side by side."""
    width = SMALL["width"]
    for name, dense in textbook.projections.items():
        layer = getattr(luna, name)
        dense.kernel.assign(ops.reshape(layer.kernel, (width, width)))
        dense.bias.assign(ops.reshape(layer.bias, (width,)))


def gradients_by_size(settings, layer, order):
    """Loss, gradients of the inputs, and of the weights in a given order."""
    mask = contenders.make_mask(settings, LENGTH)
    inputs = contenders.make_inputs(settings, LENGTH, SLOTS)
    loss = contenders.make_loss(layer, mask)
    result, found = stepping.make_step(loss, order, inputs, "eager")()
    return result, found


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("tie_key_value", [False, True])
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="reads TensorFlow's results"
)
def test_textbook_equals_luna_attention(tie_key_value, masked):
    settings = Settings(**SMALL, tie_key_value=tie_key_value, masked=masked)
    luna = contenders.make_layer(settings, "direct", LENGTH, SLOTS)
    textbook = contenders.make_layer(settings, "textbook", LENGTH, SLOTS)
    generator = np.random.default_rng(0)
    for weight in luna.trainable_variables:
        weight.assign(generator.normal(size=weight.shape) * 0.5)
    copy_weights(luna, textbook)
    x, p = contenders.make_inputs(settings, LENGTH, SLOTS)
    mask = contenders.make_mask(settings, LENGTH)
    for expected, actual in zip(
        luna(x, p, query_mask=mask),
        textbook(x, p, query_mask=mask),
        strict=True,
    ):
        np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-4)

    names = list(textbook.projections)
    ours = [getattr(luna, n).kernel for n in names]
    theirs = [textbook.projections[n].kernel for n in names]
    expected_loss, expected = gradients_by_size(settings, luna, ours)
    actual_loss, actual = gradients_by_size(settings, textbook, theirs)
    np.testing.assert_allclose(actual_loss, expected_loss, rtol=1e-4)
    for a, b in zip(actual, expected, strict=True):
        scale = np.abs(b).max()
        np.testing.assert_allclose(
            np.reshape(a, np.shape(b)), b, rtol=1e-3, atol=1e-4 * scale
        )


@pytest.mark.parametrize("contender", [*CONTENDERS, *MIXED])
def test_every_contender_steps_with_mask_and_dropout(contender):
    settings = Settings(**SMALL, masked=True, dropout=0.1)
    case = Case(contender, "eager", LENGTH, SLOTS)
    loss, found = contenders.make_step(settings, case)()
    assert np.isfinite(float(loss))
    for gradient in keras.tree.flatten(found):
        assert np.isfinite(ops.convert_to_numpy(gradient)).all()


def test_modes_agree():
    settings = Settings(**SMALL)
    keras.utils.set_random_seed(0)
    layer = contenders.make_layer(settings, "auto", LENGTH, SLOTS)
    losses = [
        float(
            stepping.make_step(
                contenders.make_loss(layer),
                layer.trainable_variables,
                contenders.make_inputs(settings, LENGTH, SLOTS),
                mode,
            )()[0]
        )
        for mode in stepping.modes()
    ]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-4)


def test_mixed_orders_equal_the_pure_ones():
    settings = Settings(**SMALL)
    x, p = contenders.make_inputs(settings, LENGTH, SLOTS)
    reference = contenders.make_layer(settings, "direct", LENGTH, SLOTS)
    expected = reference(x, p)
    for name in MIXED:
        layer = contenders.make_layer(settings, name, LENGTH, SLOTS)
        layer.set_weights(reference.get_weights())
        for a, b in zip(layer(x, p), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode=fast .* allowed is eager"):
        stepping.make_step(lambda: 0, [], [], "fast")
