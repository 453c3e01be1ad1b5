"""Signals that end a run in order."""

import signal
import threading

import pytest

from luna_tf.training.stopping import StopSignals

STOPPING = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def handlers():
    """Harmless handlers, so that a mistake does not end the tests."""

    def ignore(number, frame):
        seen.append(signal.Signals(number))

    seen = []
    before = {number: signal.signal(number, ignore) for number in STOPPING}
    yield ignore, seen
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_is_noted(number, handlers):
    with StopSignals() as stop:
        assert stop.received is None
        signal.raise_signal(number)
        assert stop.received is number
    assert handlers[1] == []


def test_a_second_interrupt_does_not_wait():
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop.received is signal.SIGINT


def test_a_second_sigterm_waits():
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert stop.received is signal.SIGTERM


def test_one_of_each_waits():
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.received is signal.SIGINT
        signal.raise_signal(signal.SIGTERM)
        assert stop.received is signal.SIGTERM


@pytest.mark.parametrize("error", [None, ValueError])
def test_handlers_come_back(handlers, error):
    try:
        with StopSignals():
            assert signal.getsignal(signal.SIGINT) is not handlers[0]
            if error:
                raise error
    except ValueError:
        pass
    for number in STOPPING:
        assert signal.getsignal(number) is handlers[0]
        signal.raise_signal(number)
    assert handlers[1] == list(STOPPING)


def test_another_thread_notes_nothing_and_changes_nothing(handlers):
    inside, done = threading.Event(), threading.Event()
    found = []

    def work():
        with StopSignals() as stop:
            inside.set()
            done.wait(60)
            found.append(stop.received)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(60)
    signal.raise_signal(signal.SIGTERM)
    done.set()
    thread.join(60)
    assert found == [None]
    assert handlers[1] == [signal.SIGTERM]
