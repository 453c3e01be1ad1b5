"""The optimizer that a recipe asks for, and the training loop around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from luna_tf.training.loop import Loop


def make_schedule(recipe: Any) -> Any:
    """The learning rate of a recipe, step by step.

    Args:
        recipe: has `schedule`, `learning_rate`, `warmup_steps`,
            `initial_learning_rate` and `train_steps`; for milestones also
            `milestone_steps` and `decay_factor`.
    """
    from luna_tf.training import schedules

    if recipe.schedule == "cosine":
        return schedules.CosineWithWarmup(
            recipe.learning_rate, recipe.train_steps, recipe.warmup_steps
        )
    if recipe.schedule == "polynomial":
        return schedules.Polynomial(
            recipe.learning_rate, recipe.train_steps, recipe.warmup_steps
        )
    warmup = recipe.warmup_steps, recipe.initial_learning_rate
    if recipe.schedule == "milestone":
        return schedules.Milestones(
            recipe.learning_rate,
            recipe.milestone_steps(),
            recipe.decay_factor,
            *warmup,
        )
    return schedules.InverseSquareRoot(recipe.learning_rate, *warmup)


def make_optimizer(recipe: Any, precision: str) -> keras.optimizers.Optimizer:
    """The optimizer of a recipe.

    Args:
        recipe: for `make_schedule`; has `weight_decay`,
            `decay_norms_and_biases`, `beta_1`, `beta_2`, `epsilon` and
            `clip_norm` too.
        precision: number format of the layers; float16 needs a scaled loss.
    """
    import keras

    optimizer = keras.optimizers.AdamW(
        make_schedule(recipe),
        weight_decay=recipe.weight_decay,
        beta_1=recipe.beta_1,
        beta_2=recipe.beta_2,
        epsilon=recipe.epsilon,
        global_clipnorm=recipe.clip_norm or None,
    )
    if not recipe.decay_norms_and_biases:
        # By names as Keras or as TensorFlow has them.
        optimizer.exclude_from_weight_decay(
            var_names=[r"(^|/)(gamma|beta|bias|output_bias)(:\d+)?$"]
        )
    if precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def make_loop(
    recipe: Any,
    strategy: tf.distribute.Strategy,
    precision: str,
    make_model: Callable[[Any, str], keras.Model],
    make_task: Callable[[keras.Model], Any],
) -> Loop:
    """The training steps of a recipe.

    Args:
        recipe: for `make_optimizer`; has `seed`, `accumulation_steps` and
            `jit_compile` too.
        strategy: where the replicas are.
        precision: number format of the layers.
        make_model: of recipe and precision.
        make_task: what the model learns.

    Returns:
        A loop whose model has its initial weights.
    """
    import keras

    from luna_tf.training.loop import Loop

    with strategy.scope():
        keras.utils.set_random_seed(recipe.seed)
        model = make_model(recipe, precision)
        optimizer = make_optimizer(recipe, precision)
    return Loop(
        make_task(model),
        optimizer,
        strategy,
        recipe.accumulation_steps,
        recipe.jit_compile,
    )
