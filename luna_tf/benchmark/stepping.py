"""One training step of a layer on the backend at hand.

The only module of the benchmark that knows TensorFlow and JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

Step = Callable[[], Any]
Loss = Callable[..., Any]


def modes() -> tuple[str, ...]:
    """The modes of the backend at hand, keys of `cases.MODES`."""
    if keras.backend.backend() == "jax":
        return ("eager", "xla")
    return ("eager", "graph", "xla")


def make_step(
    loss: Loss, variables: Sequence[Any], inputs: Sequence[Any], mode: str
) -> Step:
    """A function that runs forward and backward pass once.

    Args:
        loss: takes the inputs, returns a scalar.
        variables: Keras variables that it reads and that get gradients.
        inputs: tensors; all get gradients.
        mode: key of `cases.MODES`.

    Returns:
        Function without arguments. It gives the loss and all gradients, and
        comes back when they are computed.

    Raises:
        ValueError: for a mode that the backend does not have.
    """
    _check(mode)
    make = {"tensorflow": _tensorflow, "jax": _jax}[keras.backend.backend()]
    return make(loss, variables, inputs, mode)


def _check(mode: str) -> None:
    if mode not in modes():
        raise ValueError(
            f"mode={mode} is not possible with {keras.backend.backend()}: "
            f"allowed is {', '.join(modes())}."
        )


def _tensorflow(
    loss: Loss, variables: Sequence[Any], inputs: Sequence[Any], mode: str
) -> Step:
    import tensorflow as tf

    def step(*inputs: Any) -> Any:
        values = [variable.value for variable in variables]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            result = loss(*inputs)
        return result, tape.gradient(result, [*inputs, *values])

    if mode != "eager":
        step = tf.function(
            step, jit_compile=mode == "xla", reduce_retracing=False
        )

    def run() -> Any:
        results = step(*inputs)
        # A GPU computes on after the call; on a CPU there is nothing to do.
        tf.test.experimental.sync_devices()
        return results

    return run


def _jax(
    loss: Loss, variables: Sequence[Any], inputs: Sequence[Any], mode: str
) -> Step:
    import jax

    def stateless(values: Any, *inputs: Any) -> Any:
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return loss(*inputs)

    step = jax.value_and_grad(stateless, argnums=tuple(range(len(inputs) + 1)))
    if mode == "xla":
        step = jax.jit(step)
    values = [variable.value for variable in variables]
    return lambda: jax.block_until_ready(step(values, *inputs))


def make_forward(function: Loss, inputs: Sequence[Any], mode: str) -> Step:
    """A function that runs another one once, without gradients.

    Args:
        function: takes the inputs.
        inputs: tensors, or nested structures of them.
        mode: key of `cases.MODES`.

    Returns:
        Function without arguments that comes back when all is computed.

    Raises:
        ValueError: for a mode that the backend does not have.
    """
    _check(mode)
    if keras.backend.backend() == "jax":
        import jax

        compiled = jax.jit(function) if mode == "xla" else function
        return lambda: jax.block_until_ready(compiled(*inputs))
    import tensorflow as tf

    compiled = function
    if mode != "eager":
        compiled = tf.function(function, jit_compile=mode == "xla")

    def run() -> Any:
        results = compiled(*inputs)
        tf.test.experimental.sync_devices()
        return results

    return run


def device() -> str:
    """Kind of the device that steps run on, as the backend calls it."""
    if keras.backend.backend() == "jax":
        import jax

        return str(jax.devices()[0].device_kind)
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU")[:1]:
        details = tf.config.experimental.get_device_details(gpu)
        return str(details.get("device_name", "GPU"))
    return "cpu"


def accelerator_peak(step: Step) -> int | None:
    """Peak memory of a step on an accelerator.

    Args:
        step: from `make_step`, already run once.

    Returns:
        Bytes above what was allocated before the step, or None on a CPU. JAX
        cannot forget an earlier peak, so there it is the largest peak of the
        process: give each step a process of its own.
    """
    if device() == "cpu":
        return None
    if keras.backend.backend() == "jax":
        import jax

        before = jax.devices()[0].memory_stats()["bytes_in_use"]
        step()
        return jax.devices()[0].memory_stats()["peak_bytes_in_use"] - before
    import tensorflow as tf

    before = tf.config.experimental.get_memory_info("GPU:0")["current"]
    tf.config.experimental.reset_memory_stats("GPU:0")
    step()
    info = tf.config.experimental.get_memory_info("GPU:0")
    return info["peak"] - before
