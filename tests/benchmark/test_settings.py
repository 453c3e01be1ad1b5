import pytest

from luna_tf.benchmark import settings


@pytest.fixture(autouse=True)
def small(monkeypatch):
    sizes = {"WIDTH": 8, "HEADS": 2, "SLOTS": 2, "ROUNDS": 1}
    for name, value in sizes.items():
        monkeypatch.setattr(settings, name, value)


def test_values_are_timed_and_compared_with_the_first(capsys):
    settings.main(["16", "tie_key_value"])
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading == "tie_key_value, n = 16"
    assert first.split()[0] == "False" and second.split()[0] == "True"
    assert "time 1.00 (1.00 to 1.00)" in first
    assert "MiB" in second


@pytest.mark.parametrize("setting", settings.VALUES)
def test_a_value_reaches_its_layers(setting):
    for value in settings.VALUES[setting]:
        for layer in settings.layers(setting, value):
            config = layer.get_config()
            found = config[setting]
            if setting == "dtype":
                found = layer.dtype_policy.name
            assert found == value
