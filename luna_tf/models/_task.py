"""What the tasks share: checks against their preprocessor, compiling."""

from typing import Any

import keras


class LunaTask:
    """What the tasks share; comes before the task class of KerasHub.

    The model has a `backbone` and a `preprocessor`.
    """

    backbone: Any
    preprocessor: Any

    # A preset brings the tokenizer's vocabulary after the constructor, and a
    # graph does not know its size: Keras makes its functions outside of one.

    def make_train_function(self, *args, **kwargs):
        check_vocabulary(self.backbone, self.preprocessor)
        return super().make_train_function(  # type: ignore[misc]
            *args, **kwargs
        )

    def make_test_function(self, *args, **kwargs):
        check_vocabulary(self.backbone, self.preprocessor)
        return super().make_test_function(  # type: ignore[misc]
            *args, **kwargs
        )

    def make_predict_function(self, *args, **kwargs):
        check_vocabulary(self.backbone, self.preprocessor)
        return super().make_predict_function(  # type: ignore[misc]
            *args, **kwargs
        )

    def get_compile_config(self) -> Any:
        """Adds to what Keras saves of `compile` what it needs to go on."""
        config: Any = super().get_compile_config()  # type: ignore[misc]
        if not config:
            return config
        optimizer: Any = self.optimizer  # type: ignore[attr-defined]
        is_built = bool(optimizer and optimizer.built)
        return {**config, "optimizer_is_built": is_built}

    def compile_from_config(self: Any, config: Any, **arguments: Any) -> None:
        """Compiles as `get_compile_config` has it.

        Keras does so only for models that do not override `compile`.
        """
        config = dict(config)
        optimizer_is_built = config.pop("optimizer_is_built")
        arguments |= keras.saving.deserialize_keras_object(config)
        self.compile(**arguments)
        if optimizer_is_built:  # its state follows
            self.optimizer.build(self.trainable_variables)


def check_vocabulary(backbone: Any, preprocessor: Any) -> None:
    """Raises unless a backbone and a tokenizer know the same token ids."""
    tokenizer: Any = getattr(preprocessor, "tokenizer", None)
    # While a file is read, the vocabulary comes after the tokenizer.
    if not getattr(tokenizer, "has_vocabulary", False):
        return
    got = tokenizer.vocabulary_size()
    if got != backbone.vocabulary_size:
        raise ValueError(
            "`preprocessor` must have a tokenizer with the backbone's "
            f"`vocabulary_size`, {backbone.vocabulary_size}. Got: {got}"
        )


def check_positions(backbone: Any, preprocessor: Any, *lengths: str) -> None:
    """Raises unless learned positions cover lengths of a preprocessor.

    A length that nobody gave is shortened to them.

    Args:
        backbone: knows its positions.
        preprocessor: has `lengths`, or is None.
        *lengths: str, names of attributes.
    """
    if preprocessor is None or backbone.position_embedding != "learned":
        return
    if hasattr(preprocessor, "limit_length"):
        preprocessor.limit_length(backbone.max_sequence_length)
    for name in lengths:
        length = getattr(preprocessor, name)
        if length > backbone.max_sequence_length:
            raise ValueError(
                f"`{name}` of the preprocessor must not exceed "
                "`max_sequence_length` of the backbone, "
                f"{backbone.max_sequence_length}. Got: {length}"
            )
