import numpy as np
import pytest
import tensorflow as tf

from luna_tf.interop.tpu.replica_program import initial_values
from luna_tf.interop.tpu.tracing import tracing_strategy


def test_variables_are_those_of_a_tpu_and_every_replica_has_its_own():
    strategy = tracing_strategy(3)
    with strategy.scope():
        same = tf.Variable([1.0, 2.0])
        own = tf.Variable(
            1.0,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
        )
    assert type(same).__name__ == "TPUDistributedVariable"
    assert own.numpy() == 3.0
    same.assign([3.0, 4.0])
    same_values, own_values = initial_values(strategy, [same, own])
    np.testing.assert_array_equal(same_values, [[3.0, 4.0]] * 3)
    np.testing.assert_array_equal(own_values, [1.0] * 3)


def test_strategies_of_several_sizes_share_a_process():
    sizes = [tracing_strategy(n).num_replicas_in_sync for n in (4, 2, 1)]
    assert sizes == [4, 2, 1]


def test_a_step_is_traced_with_the_ops_of_a_tpu_and_cannot_be_run():
    strategy = tracing_strategy(2)
    with strategy.scope():
        total = tf.Variable(0.0)

    @tf.function(autograph=False)
    def run(x):
        return strategy.run(lambda x: total.assign_add(x), args=(x,))

    graph = run.get_concrete_function(tf.TensorSpec(())).graph
    ops = {node.op for node in graph.as_graph_def().node}
    assert {"TPUReplicateMetadata", "TPUReplicatedInput"} <= ops
    with pytest.raises(tf.errors.InvalidArgumentError, match="No OpKernel"):
        run(tf.constant(1.0))


@pytest.mark.parametrize("number", [0, -1, 2.0, None])
def test_refuses_other_than_positive_integers(number):
    with pytest.raises(ValueError, match=f"num_replicas={number}"):
        tracing_strategy(number)
