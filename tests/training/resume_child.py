"""A run that can be killed at a chosen moment, and started again.

Usage: python resume_child.py FOLDER one|mirrored:2|workers [KILL]

KILL is `step:N` (before the steps after N are made), `state:N` (while the
checkpoint of step N is written, after its first file), or `marker:N` (before
it is declared whole). Every step's loss goes to FOLDER/losses.txt as
hexadecimal digits, final weights to FOLDER/weights.npz.
"""

import os
import signal
import sys

import numpy as np
import subjects
import tensorflow as tf

from luna_tf.training import checkpoints as checkpoints_module
from luna_tf.training import files
from luna_tf.training.records import Schedule, WorkerLostError
from luna_tf.training.stopping import EXIT_PREEMPTED, EXIT_WORKER_LOST
from luna_tf.training.strategy import choose_strategy
from luna_tf.training.trainer import Trainer

tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

BATCH = 8
STEPS = int(os.environ.get("STEPS", "12"))


def choose(where):
    if where == "one":
        return choose_strategy("one_device")
    if where == "workers":
        return choose_strategy("multi_worker_mirrored")
    return choose_strategy("mirrored", logical_cpus=int(where.split(":")[1]))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def arrange_death(kind, step):
    """Dies where the real code calls what it calls anyway."""
    if kind == "state":
        write = tf.train.Checkpoint.write

        def write_and_die(self, path, *arguments):
            if f"step-{step:08d}" in path:
                # What an interrupted write leaves: some of the bytes.
                write(self, path, *arguments)
                data = f"{path}.data-00000-of-00001"
                os.truncate(data, os.path.getsize(data) // 2)
                die()
            return write(self, path, *arguments)

        tf.train.Checkpoint.write = write_and_die
    if kind == "marker":
        write_text = files.write_text

        def write_text_and_die(path, text):
            if f"step-{step:08d}" in path:
                with open(f"{path}.unfinished", "w") as file:
                    file.write(text[: len(text) // 2])
                die()
            write_text(path, text)

        checkpoints_module.files.write_text = write_text_and_die


def stream(share):
    """The same examples as a shuffled, endless stream."""
    source = subjects.lra_source()
    worker = share.first_replica // share.local_replicas
    numbers = tf.data.Dataset.range(source.size)
    numbers = numbers.shard(share.num_replicas // share.local_replicas, worker)
    numbers = numbers.repeat().shuffle(16, seed=3)
    return numbers.batch(share.rows, drop_remainder=True).map(source.gather)


def main(folder, where, kill=None):
    kind, step = (kill or "never:-1").split(":")
    step = int(step)
    arrange_death(kind, step)
    placement = choose(where)
    loop = subjects.make_loop(
        "lra", "adamw", placement.strategy, dropout=0.3, jit_compile=False
    )
    trainer = Trainer(loop, BATCH, num_workers=placement.num_workers)
    checkpoints = trainer.make_checkpoints(
        f"{folder}/checkpoints", worker=placement.worker
    )
    losses = open(f"{folder}/losses.txt", "a") if placement.is_chief else None

    def on_resume(restored):
        for line in restored.skipped:
            print("skipped", line, flush=True)
        print("resumed", restored.step, flush=True)

    def on_log(log):
        if losses:
            print(log.step, log.loss.hex(), file=losses, flush=True)
        print("step", log.step, flush=True)
        if kind == "step" and log.step == step:
            die()
        if kind == "pause" and log.step == step:
            print("paused", flush=True)
            signal.pause()

    if os.environ.get("STREAM"):
        from luna_tf.training.sources import StreamSource

        source = StreamSource(stream)
    else:
        source = subjects.lra_source()
    schedule = Schedule(STEPS, eval_every=4, steps_per_loop=1)
    try:
        result = trainer.train(
            source,
            schedule,
            subjects.lra_source(13, seed=1),
            checkpoints,
            on_resume=on_resume,
            on_log=on_log,
        )
    except WorkerLostError as error:
        print("lost", error, flush=True)
        os._exit(EXIT_WORKER_LOST)
    if result.stopped_by is not None:
        print("stopped", result.step, flush=True)
        sys.exit(EXIT_PREEMPTED)
    if placement.is_chief:
        weights = {v.path: v.numpy() for v in loop.model.variables}
        weights["best"] = np.array(
            [result.best_step, result.best_evaluation.loss]
        )
        np.savez(f"{folder}/weights.npz", **weights)


if __name__ == "__main__":
    main(*sys.argv[1:])
