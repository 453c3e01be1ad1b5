"""The official architectures of the Long Range Arena, by their names."""

from typing import Any

from luna_tf.layers._arguments import check_choice

TREES = ("2021", "newest")

# Every argument is one of `LRAClassifier`.
_TASKS: dict[str, dict[str, Any]] = {
    "listop": {
        "num_classes": 10,
        "max_sequence_length": 2001,
        "num_layers": 6,
        "share_layers": True,
        "num_heads": 8,
        "hidden_dim": 512,
        "intermediate_dim": 2048,
        "head_hidden_dim": 2048,
    },
    "imdb": {
        "num_classes": 2,
        "max_sequence_length": 4002,
        "num_layers": 4,
        "num_heads": 4,
        "hidden_dim": 256,
        "intermediate_dim": 1024,
        "head_hidden_dim": 1024,
    },
    "aan": {
        "num_classes": 2,
        "max_sequence_length": 4002,
        "num_documents": 2,
        "num_layers": 4,
        "num_heads": 4,
        "hidden_dim": 128,
        "intermediate_dim": 512,
        "head_hidden_dim": 512,
    },
    "cifar10": {
        "num_classes": 10,
        "max_sequence_length": 1024,
        "num_layers": 1,
        "num_heads": 8,
        "hidden_dim": 64,
        "intermediate_dim": 128,
        "head_hidden_dim": 128,
    },
    "pf32": {
        "num_classes": 2,
        "max_sequence_length": 32 * 32 + 2,
        "num_layers": 1,
        "num_heads": 4,
        "hidden_dim": 128,
        "intermediate_dim": 128,
        "pooling": "mean",
        "head_hidden_dim": 256,
    },
}
_TASKS["pf128"] = {**_TASKS["pf32"], "max_sequence_length": 128 * 128 + 2}

NAMES = (
    *(f"luna_lra_{task}" for task in _TASKS),
    *(f"transformer_lra_{task}" for task in _TASKS if task != "pf128"),
)


def architecture(name: str, tree: str = "2021") -> dict[str, Any]:
    """Returns the arguments that make an official model of `LRAClassifier`.

    What depends on the data is for the caller to add: `vocabulary_size`, and
    `padding_id` where it is not 0. With Luna the packed length is 16, that of
    the recipes, which also come with 128 and 256. Layer norms of the newest
    tree are those of Keras, whose gains start at 1 and not at 0.

    Args:
        name: str, such as `"luna_lra_imdb"`, or `"transformer_lra_imdb"` for
            its baseline with softmax attention.
        tree: `"2021"`, the release whose results the paper has: learned
            positions, a head with a hidden layer, means over padding too; or
            `"newest"`, the last one: sinusoidal positions, one output layer,
            means over real tokens.

    Returns:
        Argument name -> value. Rates are the official defaults; the recipes
        of some tasks have others.

    Raises:
        ValueError: if `name` or `tree` is unknown.

    Example:

    >>> from luna_tf.models import LRAClassifier
    >>> from luna_tf.models.lra_architectures import architecture
    >>> arguments = architecture("luna_lra_cifar10")
    >>> LRAClassifier(vocabulary_size=261, **arguments).count_params()
    139328
    """
    check_choice(NAMES, name=name)
    check_choice(TREES, tree=tree)
    family, _, task = name.split("_")
    arguments = {
        "pooling": "cls",
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation": "gelu",
        # Padding has id 1 in the official dictionaries, and positions count
        # from the row after it.
        "first_position": 2,
        **_TASKS[task],
    }
    if family == "luna":
        arguments |= {"attention": "luna", "packed_length": 16}
    else:
        arguments["attention"] = "softmax"
    if tree == "2021":
        arguments["position_embedding"] = "learned"
        arguments["pooling_includes_padding"] = True
        if name == "transformer_lra_listop":
            arguments["max_sequence_length"] += 1
    else:
        del arguments["head_hidden_dim"]
        arguments["head_dropout"] = 0.1
        arguments["position_embedding"] = "sinusoidal"
        arguments["embedding_scale"] = arguments["hidden_dim"] ** 0.5
        if task == "aan":
            arguments["pair_features"] = "interaction"
    return arguments
