"""A TPU's training step without a TPU: traced, simulated and compiled.

`tracing` makes a real `tf.distribute.TPUStrategy` on a machine without a TPU,
`replica_program` traces a step under it and turns it into a pure function,
`lowering` makes StableHLO of that, which `simulate` runs on several simulated
replicas and `compiling` gives to the TPU's own compiler. Import the modules by
name: `child` and what it needs must start without TensorFlow.
"""
