"""Who can reach a port that a server listens on."""

from __future__ import annotations

from cql_atari.system import ports


def test_public_addresses_are_named(caplog, monkeypatch):
    for addresses, words in (
        (["127.0.0.1", "::1"], ""),
        (["127.0.0.1", "10.0.0.3"], "port 8000 of every interface"),
        (["10.0.0.3", "8.8.4.4"], "PUBLIC addresses (8.8.4.4)"),
    ):
        caplog.clear()
        monkeypatch.setattr(ports, "_own_addresses", lambda found=addresses: found)
        ports.warn_if_open(8000)
        assert words in caplog.text and bool(words) == bool(caplog.text)


def test_own_addresses_include_loopback():
    assert "127.0.0.1" in list(ports._own_addresses())
