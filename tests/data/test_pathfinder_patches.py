"""Tables of paddles: what the original's geometry is known to come to."""

import numpy as np
import pytest

from luna_tf.data.lra.pathfinder_contours import _central_seeds
from luna_tf.data.lra.pathfinder_patches import (
    NUM_DEGREES,
    land,
    tables,
)
from luna_tf.data.lra.pathfinder_settings import (
    IMAGE_SIZES,
    settings,
)


@pytest.fixture(scope="module")
def kind():
    return settings(32, "hard")


@pytest.fixture(scope="module")
def table(kind):
    return tables(kind, 1)


def patch(table, strokes, index, reach=4):
    canvas = np.zeros(table.width**2, np.uint8)
    centre = table.width // 2
    places = centre * (table.width + 1) + strokes.steps[index]
    np.maximum.at(canvas, places, strokes.values[index])
    part = slice(centre - reach, centre + reach + 1)
    return canvas.reshape(table.width, table.width)[part, part]


def test_a_paddle_to_the_right(table):
    drawn = patch(table, table.ink, 180)
    assert drawn[4].tolist() == [0, 0, 2, 0, 102, 135, 116, 0, 0]
    assert np.delete(drawn, 4, axis=0).max() == 0
    bar = patch(table, table.masks, 180)[3:6, 4:7]
    assert bar.min() >= 155
    assert bar[1].tolist() == [255, 255, 255]


def test_there_are_thirty_different_paddles(table):
    drawn = {patch(table, table.ink, i).tobytes() for i in range(NUM_DEGREES)}
    assert len(drawn) == 30


def test_only_thirty_degrees_can_begin_a_contour(kind, table):
    degrees = table.seed_degrees - 180
    assert degrees.tolist() == list(range(-150, -120))
    points, directions = _central_seeds(
        np.random.default_rng(0), kind, table, 2000
    )
    assert set(directions.tolist()) == set(table.seed_degrees.tolist())
    rows, columns = points.T
    assert set(rows.tolist()) == {14, 15, 16}
    # The steeper ones may begin in one more column.
    steep = directions >= 180 - 138
    assert set(columns[steep].tolist()) == {14, 15, 16}
    assert set(columns[~steep].tolist()) == {15, 16}


def test_candidates_bend_by_less_than_a_right_angle(table):
    assert (table.ring_weights.max(axis=1) > 0).all()
    used = table.ring_weights > 0
    centre = table.width // 2
    places = table.ring + centre * (table.width + 1)
    points = np.stack(np.divmod(places, table.width), axis=-1) - centre
    ahead = (points * table.moves[:, None]).sum(axis=-1)
    assert (ahead[used] > 0).all()
    distances = np.hypot(*np.moveaxis(points, -1, 0))[used]
    assert distances.min() >= 2
    assert distances.max() < 5


def test_a_move_near_the_left_edge_gets_rounding_noise(table):
    # cos(90 degrees) is 6e-17: enough for columns 2 and 3, too little for 4.
    down = table.moves[180 + 90]
    points = np.array([[10, 2], [10, 3], [10, 4], [10, 20]])
    assert land(points, down).tolist() == [[14, 3], [14, 4], [14, 4], [14, 20]]


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
def test_nothing_reaches_over_the_canvas(image_size):
    kind = settings(image_size, "hard")
    for margin in kind.margins:
        table = tables(kind, margin)
        corners = np.array([[0, 0], [image_size - 1, image_size - 1]])
        pivots = table.place(land(corners[:, None], table.moves))
        farthest = pivots[..., None, None] + table.ring[..., None] + table.disc
        markers = table.place(corners)[:, None, None] + table.markers.steps
        for places in (farthest, markers):
            assert places.min() >= 0
            assert places.max() < table.inside.size
        assert table.inside.sum() == image_size**2


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
def test_first_paddles_of_targets_are_far_from_the_edge(image_size):
    kind = settings(image_size, "hard")
    for margin in kind.margins:
        table = tables(kind, margin)
        points, _ = _central_seeds(np.random.default_rng(0), kind, table, 500)
        low = points.min() - kind.seed_distance
        high = points.max() + kind.seed_distance
        points = np.array([[low, low], [low, high], [high, low], [high, high]])
        heads = land(points[:, None], table.head_moves)
        pivots = land(heads, table.pivot_moves)
        for ends in (heads, pivots):
            assert ends.min() >= 0
            assert ends.max() < image_size


def test_marker_discs_depend_on_the_edge_only_near_it(table):
    middle = table.marker_ids[16, 16]
    assert (table.marker_ids[9:23, 9:23] == middle).all()
    assert table.marker_ids[0, 16] != middle
    assert table.marker_ids[0, 0] == 0
    assert table.marker_ids[31, 31] == table.marker_ids.max()
    disc = patch(table, table.markers, middle)
    assert (disc[3:6, 3:6] > 100).sum() == 8
    assert disc[4, 4] == 255


def test_parameters_of_the_sizes():
    path_x = settings(128, "hard")
    assert (path_x.num_distractors, path_x.distractor_length) == (8, 4)
    easy = settings(64, "easy")
    assert (easy.num_distractors, easy.contour_length) == (11, 6)
