"""What the Pathfinder pictures of each size and difficulty are made of."""

import dataclasses

DIFFICULTIES = ("easy", "intermediate", "hard")
_CONTOUR_LENGTHS = dict(zip(DIFFICULTIES, (6, 9, 14), strict=True))


@dataclasses.dataclass(frozen=True)
class PathfinderSettings:
    """Geometry and grey values of one kind of picture; lengths in pixels.

    A contour is a dashed line of `paddles`. Each picture has two target
    contours and some shorter distractors, all drawn antialiased.

    Args:
        image_size: height and width.
        padding: width of the border that no paddle may touch.
        paddle_length, paddle_thickness: of one paddle.
        margins: free space around a paddle; each picture draws one of them.
        seed_distance: between the first paddles of the two targets.
        marker_radius: of the discs that mark two tips.
        contour_length: paddles of a target.
        distractor_length: paddles of a distractor.
        num_distractors: how many are tried.
        continuity: how straight contours are: the angle between neighbouring
            paddles stays below 90 degrees divided by this.
        target_contrast, distractor_contrast: brightness of the paddles, where
            a marker has 1.

    Example:

    >>> settings(32, "hard").contour_length
    14
    """

    image_size: int
    padding: int
    paddle_length: int
    paddle_thickness: float
    margins: tuple[int, ...]
    seed_distance: int
    marker_radius: float
    contour_length: int
    distractor_length: int
    num_distractors: int
    continuity: float
    target_contrast: float
    distractor_contrast: float


_SIZES: dict[int, dict] = {
    32: dict(
        padding=1,
        paddle_length=2,
        paddle_thickness=0.5,
        margins=(1,),
        seed_distance=7,
        marker_radius=1.5,
        distractor_paddles=20,
        continuity=1.0,
        target_contrast=1.5,
        distractor_contrast=2.0,
    ),
    64: dict(
        padding=1,
        paddle_length=5,
        paddle_thickness=1.0,
        margins=(1,),
        seed_distance=12,
        marker_radius=2.5,
        distractor_paddles=22,
        continuity=1.8,
        target_contrast=0.8,
        distractor_contrast=0.8,
    ),
    128: dict(
        padding=1,
        paddle_length=5,
        paddle_thickness=1.5,
        margins=(2, 3),
        seed_distance=20,
        marker_radius=3.0,
        distractor_paddles=35,
        continuity=1.8,
        target_contrast=0.9,
        distractor_contrast=0.9,
    ),
    256: dict(
        padding=22,
        paddle_length=5,
        paddle_thickness=2.0,
        margins=(3,),
        seed_distance=27,
        marker_radius=5.0,
        distractor_paddles=30,
        continuity=1.8,
        target_contrast=1.0,
        distractor_contrast=1.0,
    ),
}
IMAGE_SIZES = tuple(_SIZES)


def settings(
    image_size: int,
    difficulty: str,
    contour_length: int | None = None,
    distractors: bool = True,
) -> PathfinderSettings:
    """Returns how the Long Range Arena had its pictures made.

    Args:
        image_size: one of `IMAGE_SIZES`.
        difficulty: one of `DIFFICULTIES`; the published tasks are `"hard"`.
        contour_length: paddles of a target, 2 to 14, where they shall be
            others than those of the difficulty.
        distractors: whether there are any.

    Returns:
        The settings.

    Raises:
        ValueError: there is no such size, difficulty or length.

    Example:

    >>> settings(128, "hard").image_size  # Path-X
    128
    """
    for name, value, allowed in (
        ("image_size", image_size, IMAGE_SIZES),
        ("difficulty", difficulty, DIFFICULTIES),
    ):
        if value not in allowed:
            raise ValueError(
                f"{name} must be one of {allowed}. Received: {name}={value!r}."
            )
    values = dict(_SIZES[image_size])
    if contour_length is None:
        contour_length = _CONTOUR_LENGTHS[difficulty]
    if not 2 <= contour_length <= 14:
        raise ValueError(
            "contour_length must be from 2 to 14. Received: "
            f"contour_length={contour_length!r}."
        )
    distractor_length = max(contour_length // 3, 1)
    paddles = values.pop("distractor_paddles")
    return PathfinderSettings(
        image_size=image_size,
        contour_length=contour_length,
        distractor_length=distractor_length,
        num_distractors=distractors * paddles // distractor_length,
        **values,
    )
