"""Official architectures: parameter counts of the authors' code."""

import pytest

from luna_tf.models import LRAClassifier
from luna_tf.models.lra_architectures import NAMES, architecture

# By instantiating the authors' models with 16 packed rows, without the token
# table: newest tree, release of 2021. The newest head for two documents does
# not fit its input there; here it has the 768 weights that it lacks.
COUNTS = {
    "luna_lra_listop": (3_956_736, 6_048_256),
    "luna_lra_imdb": (3_956_224, 5_245_952),
    "luna_lra_aan": (995_072 + 768, 1_639_936),
    "luna_lra_cifar10": (48_000, 122_624),
    "luna_lra_pf32": (152_192, 317_056),
    "luna_lra_pf128": (152_192, 2_283_136),
    "transformer_lra_listop": (3_158_528, 5_250_560),
    "transformer_lra_imdb": (3_160_064, 4_449_792),
    "transformer_lra_aan": (793_600 + 768, 1_438_464),
    "transformer_lra_cifar10": (34_240, 108_864),
    "transformer_lra_pf32": (100_096, 264_960),
}


def test_every_architecture_is_counted():
    assert set(NAMES) == COUNTS.keys()


@pytest.mark.parametrize("name", NAMES)
def test_parameter_counts(name):
    for tree, expected in zip(("newest", "2021"), COUNTS[name], strict=True):
        arguments = architecture(name, tree)
        model = LRAClassifier(vocabulary_size=7, **arguments)
        tokens = 7 * arguments["hidden_dim"]
        assert model.count_params() - tokens == expected, tree


def test_more_packed_rows_are_more_parameters():
    arguments = architecture("luna_lra_cifar10") | {"packed_length": 256}
    model = LRAClassifier(vocabulary_size=7, **arguments)
    assert model.count_params() == 122_624 + (7 + 240) * 64


def test_the_table_stays_as_it_is():
    architecture("luna_lra_pf32")["num_layers"] = 9
    assert architecture("luna_lra_pf32")["num_layers"] == 1


@pytest.mark.parametrize(
    "arguments,name,allowed",
    [
        (("luna_lra_text",), "name", "luna_lra_imdb"),
        (("luna_lra_imdb", "head"), "tree", "'2021', 'newest'"),
    ],
)
def test_unknown_names(arguments, name, allowed):
    with pytest.raises(ValueError, match=f"`{name}` .*{allowed}") as raised:
        architecture(*arguments)
    assert f"Got: {arguments[-1]!r}" in str(raised.value)
