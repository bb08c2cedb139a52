"""A signal asks for a stop, a second one ends at once, one that is ignored stays so."""

from __future__ import annotations

import signal

import pytest

from cql_atari.system import signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_asks_for_a_stop_and_a_second_one_ends_at_once(monkeypatch, number):
    monkeypatch.setattr(signals, "_leave_terminal", lambda: None)  # it may be the tests' own
    before = signal.getsignal(number)
    with signals.stop_on_signals() as should_stop:
        assert not should_stop()
        signal.raise_signal(number)
        assert should_stop()
        with pytest.raises(signals.EndNow):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_the_end_of_a_terminal_stays_ignored_where_it_was():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.stop_on_signals() as should_stop:
            signal.raise_signal(signal.SIGHUP)
            assert not should_stop()
    finally:
        signal.signal(signal.SIGHUP, before)
