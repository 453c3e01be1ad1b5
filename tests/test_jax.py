"""The layer tests on the JAX backend, in a process of its own."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


# Outside of a compiled function JAX compiles every operation for every shape,
# which takes time and memory. Of gradients the compiled variants are run, and
# of tests that repeat others with other settings some are left out.
LEFT_OUT = (
    "[eager-",
    "1e_5[tied]",
    "1e_5[untied]",
    "changes_no_bit",
    "fit_learns",
    "leave_a_stack",
    "gradients_reach",
    "open-self",
    "open-cross-4",
    "pre-direct",
    "pre-absorbed",
    "follows_the_rule",
    "quantizing",
    "int8_is_close",
    "lora_acts",
    "65536",
    "prefill_and_rest",
    "prefill_and_single",
    "blocks_of_several",
    "blocks_in_bfloat16",
    "drop_the_same[False",
    "drop_the_same[True-untied",
    "options1",
    "kept-options",
    "wrong_",
    "bad_input",
    "bfloat16_keeps",
    "as_if_it_were_not_there[right",
    "reordered",
    "constant_size",
    "not_folded",
    "cross-post",
    "keeps_the_mean[direct",
    "hands_the_order",
    "auto_counts",
    "symbolic_outputs",
)


pytestmark = [
    pytest.mark.jax,
    pytest.mark.multiprocess,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("jax") is None, reason="needs jax"
    ),
]


def test_attention_on_jax():
    passed = run(
        "tests/ops/test_packing.py",
        "tests/layers/test_luna_attention.py",
        "tests/layers/test_luna_transformer_block.py",
        "tests/layers/test_masks.py",
        "-k",
        "not (" + " or ".join(LEFT_OUT) + ")",
    )
    assert passed >= 60


@pytest.mark.long
def test_layers_and_ops_on_jax():
    # What is ignored needs TensorFlow: tf.function, SavedModel.
    passed = run(
        "tests/layers",
        "tests/ops",
        "--ignore=tests/layers/test_layers_tensorflow.py",
        "--ignore=tests/layers/test_layers_saved_model.py",
        "-k",
        "not (" + " or ".join(LEFT_OUT) + ")",
    )
    assert passed >= 250


def test_parity_on_jax():
    passed = run(
        "tests/interop/test_parity.py",
        "-k",
        "True and (cross_untied-both or self_tied-both or edge or masks)",
    )
    assert passed >= 5


def run(*arguments):
    """Runs pytest on JAX; returns how many tests passed, none having failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    # A Keras backend is chosen once for a process.
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        # Compile fast: the programs run once.
        "XLA_FLAGS": "--xla_backend_optimization_level=0 "
        "--xla_llvm_disable_expensive_passes=true",
    }
    for name in list(environment):
        if name.startswith("PYTEST_"):
            del environment[name]
    done = subprocess.run(
        [*command, "-n", "2", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    return int(passed)
