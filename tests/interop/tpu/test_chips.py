import pytest

from luna_tf.interop.tpu import chips


@pytest.mark.parametrize(
    "topology, devices",
    [
        ("v2:2x2", 8),
        ("v3:2x2", 8),
        ("v4:2x2x1", 8),
        ("v5e:2x4", 8),
        ("v5e:16x16", 256),
        ("v5p:2x2x2", 8),
        ("v6e:1x1", 1),
        ("TPU7x:2x2x1", 8),
    ],
)
def test_counts_devices_as_libtpu_does(topology, devices):
    assert chips.parse_topology(topology)[1] == devices


@pytest.mark.parametrize(
    "topology", ["v5litepod-4", "v5e", "v5e:2x2x1", "v4:2x2", "v9:2x2", "v5e:0"]
)
def test_an_unknown_topology_is_named_with_those_allowed(topology):
    with pytest.raises(ValueError, match="v5e:AxB") as error:
        chips.parse_topology(topology)
    assert repr(topology) in str(error.value)


def test_a_step_is_bound_by_the_slower_of_arithmetic_and_memory():
    chip, _ = chips.parse_topology("v5e:2x2")
    peak, memory = chip.flops_per_second, chip.bytes_per_second
    assert chips.roofline_seconds(2 * peak, memory, chip) == 2.0
    assert chips.roofline_seconds(peak, 3 * memory, chip) == 3.0


def test_two_devices_share_what_their_chip_has():
    chip, _ = chips.parse_topology("v3:2x2")
    assert chip.flops_per_second == pytest.approx(61.5e12)
    assert chip.bytes_per_second == pytest.approx(450e9)
