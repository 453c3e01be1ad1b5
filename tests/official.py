"""Our gradients beside those of the authors' code."""

from luna_tf.interop import fairseq_names


def official_gradients(target, values):
    """Our gradients under official names and in official layouts."""
    entries = fairseq_names.entries_of(target)
    paths = [v.path for v in target.trainable_variables]
    by_path = dict(zip(paths, values, strict=True))
    return {e.name: e.to_official(by_path[e.variable.path]) for e in entries}
