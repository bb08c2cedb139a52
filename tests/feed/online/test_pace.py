"""The online phase's arithmetic, by hand."""

from __future__ import annotations

import pytest
import tiny

from cql_atari.core.types import UserError
from cql_atari.feed.online import pace as online_pace
from cql_atari.feed.online.complete import complete

ONLINE = (
    "data.games = ('Freeway',)",
    "train.phase = 'online'",
    "online.frames = 4000",
    "online.num_envs = 4",
    "online.first_fill = 100",
    "online.epsilon_decay_frames = 1000",
)


def make(*bindings):
    return tiny.config(*ONLINE, *bindings)


def test_steps_follow_from_frames():
    """1,000 transitions, 100 of them the first fill; batches of 8, 8 draws each: 900 steps."""
    assert complete(make()).train.steps == 900
    # 4 draws of each: 450 steps; in calls of 4: 448.
    calls = ("train.steps_per_call = 4", "feed.samples_per_insert = 4.0")
    assert complete(make(*calls)).train.steps == 448
    # Recorded rows don't change how often there is a step.
    assert complete(make("online.offline_share = 0.5")).train.steps == 900


@pytest.mark.parametrize(
    "binding, words",
    [
        ("data.games = ('Freeway', 'Hero')", "one game"),
        ("online.mode = 9", "Freeway has no mode 9; it offers 0, 1, 2, 3, 4, 5, 6, 7"),
        ("online.difficulty = 2", "Freeway has no difficulty 2; it offers 0, 1"),
        ("online.frames = 400", "at least 408 frames"),
        ("online.offline_share = 1.0", "leaves no row"),
        ("feed.transitions_per_game = 99", "doesn't fit"),
        ("train.method = 'cloning'", "can't learn from what it plays itself"),
        ("train.strategy = 'mirrored'", "one device"),
    ],
)
def test_what_cannot_be_run_is_refused(binding, words):
    with pytest.raises(UserError, match=words):
        complete(make(binding))


def test_epsilon_decays_linearly():
    online = make().online
    found = [online_pace.epsilon(online, frames) for frames in (0, 500, 1000, 5000)]
    assert found == pytest.approx([1.0, 0.505, 0.01, 0.01])


def test_a_first_life_draws_eight_times_what_comes_after_the_first_fill():
    pace = online_pace.make_pace(make(), 0, 0)
    # Unwritten: 3 steps of each of 4 copies, and a last step of all 4.
    slack = 8 * (3 * 4 + 4 + 8) + 3 * 8 * 2 + 32
    assert pace == (8.0, 100, (800 - slack, 800 + slack))


def test_a_second_life_goes_on_with_the_law_of_the_first():
    """After 2,000 frames, 500 transitions, 400 steps of 8 are due; then, what is filled again."""
    first = online_pace.make_pace(make(), 0, 0)
    later = online_pace.make_pace(make(), 2000, 400)
    assert later.first_fill == 100
    assert sum(later.allowed) == 0
    behind = online_pace.make_pace(make(), 2000, 300)
    assert sum(behind.allowed) / 2 == -800
    assert later.allowed[1] - later.allowed[0] == first.allowed[1] - first.allowed[0]


def test_rows_of_recorded_play_slow_the_draws_down():
    config = make("online.offline_share = 0.25")
    assert online_pace.rows(config) == (6, 2)
    assert online_pace.make_pace(config, 0, 0).samples_per_insert == 6


def test_acting_ends_with_the_budget_but_a_late_life_may_fill_its_replay():
    assert online_pace.budget(make(), 0) == 4000
    assert online_pace.budget(make(), 3000) == 4000
    assert online_pace.budget(make(), 3900) == 3900 + 4 * (100 + 16)
