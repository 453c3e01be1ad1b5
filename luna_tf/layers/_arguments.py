"""Checks of constructor arguments that several layers share."""

from typing import Any

import keras


def check_positive(**values: int | None) -> None:
    """Raises unless every given value is an int of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"`{name}` must be a positive integer. Got: {value!r}"
            )


def check_rate(**values: float) -> None:
    """Raises unless every given value lies in [0, 1)."""
    for name, value in values.items():
        if not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise ValueError(f"`{name}` must be in [0, 1). Got: {value!r}")


def check_choice(allowed: tuple, **values: Any) -> None:
    """Raises unless every given value is one of `allowed`."""
    for name, value in values.items():
        if value not in allowed:
            raise ValueError(
                f"`{name}` must be one of {allowed}. Got: {value!r}"
            )


def check_rank(rank: int, **tensors: Any) -> None:
    """Raises unless every given tensor or shape has `rank` dimensions."""
    for name, x in tensors.items():
        shape = tuple(getattr(x, "shape", x))
        if len(shape) != rank:
            raise ValueError(
                f"`{name}` must have rank {rank}. Got shape: {shape}"
            )


def check_companions(name: str, first: Any, **others: Any) -> None:
    """Raises unless tensors or shapes share batch size and width with one."""
    batch, _, width = getattr(first, "shape", first)
    for other, x in others.items():
        shape = tuple(getattr(x, "shape", x))
        if None not in (batch, shape[0]) and batch != shape[0]:
            raise ValueError(
                f"`{other}` must have the batch size of `{name}`, {batch}. "
                f"Got shape: {shape}"
            )
        if shape[-1] != width:
            raise ValueError(
                f"`{other}` must have the width of `{name}`, {width}. "
                f"Got shape: {shape}"
            )


def clone_initializer(initializer: Any) -> Any:
    """Returns a fresh copy, so that sublayers do not start out equal."""
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    return initializer.__class__.from_config(initializer.get_config())


def packed_length_of(cache: Any) -> int | None:
    """Returns the packed length of a cache, None where it has none."""
    mask = cache.get("packed_mask") if isinstance(cache, dict) else None
    shape = tuple(getattr(mask, "shape", ()))
    return shape[1] if len(shape) == 2 else None


def check_cache(cache: Any, expected: dict[str, tuple]) -> None:
    """Raises unless `cache` is a dict of tensors of the expected shapes.

    None in an expected shape, or in that of a tensor, fits every size.
    """
    got = cache
    if isinstance(cache, dict):
        got = {k: tuple(getattr(v, "shape", ())) for k, v in cache.items()}
        if got.keys() == expected.keys() and all(
            _fits(got[name], shape) for name, shape in expected.items()
        ):
            return
    raise ValueError(
        "`cache` must come from `initial_cache` of this layer, for this "
        f"batch: a dict of tensors of shapes {expected}. Got: {got}"
    )


def _fits(got: tuple, expected: tuple) -> bool:
    return len(got) == len(expected) and all(
        a is None or b is None or a == b
        for a, b in zip(got, expected, strict=True)
    )
