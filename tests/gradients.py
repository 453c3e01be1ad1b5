"""Values and gradients on the TensorFlow and JAX backends alike."""

import keras
import numpy as np


def run(function, variables, inputs, cotangents=None, jit=False):
    """Evaluates a function and, given cotangents, its gradients.

    Args:
        function: Takes the inputs by name, returns a dict of tensors.
        variables: Keras variables that it reads.
        inputs: dict of arrays; the floating-point ones get gradients.
        cotangents: dict of arrays for some of the outputs, or None.
        jit: bool, whether to compile with XLA.

    Returns:
        outputs, gradients of inputs (dict), gradients of variables (list; None
        where there is none).
    """
    inputs = {k: np.asarray(v) for k, v in inputs.items()}
    floats = {k: v for k, v in inputs.items() if v.dtype.kind == "f"}
    others = {k: v for k, v in inputs.items() if k not in floats}
    backend = {"tensorflow": _tensorflow, "jax": _jax}[keras.backend.backend()]
    return backend(function, variables, floats, others, cotangents, jit)


def _loss(outputs, cotangents):
    ops = keras.ops
    return sum(
        ops.sum(ops.cast(outputs[name], "float32") * cotangent)
        for name, cotangent in cotangents.items()
    )


def _tensorflow(function, variables, floats, others, cotangents, jit):
    import tensorflow as tf

    def step(floats):
        values = [v.value for v in variables]
        with tf.GradientTape() as tape:
            tape.watch(floats)
            outputs = function(**floats, **others)
            if cotangents is None:
                return outputs, {}, []
            loss = _loss(outputs, cotangents)
        g_in, g_var = tape.gradient(loss, (floats, values))
        return outputs, g_in, [_dense(g) for g in g_var]

    def _dense(g):
        return g if g is None else tf.convert_to_tensor(g)

    floats = {k: tf.constant(v) for k, v in floats.items()}
    if jit:
        step = tf.function(step, jit_compile=True)
    return _numpy(step(floats))


def _jax(function, variables, floats, others, cotangents, jit):
    import jax

    def step(values, floats):
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            outputs = function(**floats, **others)
        if cotangents is None:
            return 0.0, outputs
        return _loss(outputs, cotangents), outputs

    step = jax.value_and_grad(step, argnums=(0, 1), has_aux=True)
    if jit:
        step = jax.jit(step)
    values = [v.value for v in variables]
    (_, outputs), (g_var, g_in) = step(values, floats)
    if cotangents is None:
        return _numpy((outputs, {}, []))
    return _numpy((outputs, g_in, g_var))


def _numpy(tree):
    return keras.tree.map_structure(
        lambda x: None if x is None else keras.ops.convert_to_numpy(x),
        tree,
        none_is_leaf=False,
    )
