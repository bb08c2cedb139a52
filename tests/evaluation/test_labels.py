"""What players are called."""

from __future__ import annotations

import pytest

from cql_atari.evaluation import labels


@pytest.mark.parametrize("label, title", [
    ("best_fixed", "best fixed action"),
    ("cloning (best_ten_percent)", "cloning (best ten percent)"),
    ("agent (loss.cql_alpha=0.01)", "agent (loss.cql_alpha=0.01)"),
    ("agent (old_runs/agent)", "agent (old_runs/agent)"),
])  # fmt: skip
def test_words_are_read_and_settings_and_paths_keep_their_names(label, title):
    assert labels.title(label) == title
