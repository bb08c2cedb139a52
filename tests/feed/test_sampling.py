"""The batch law: shapes, purity, uniformity, independence."""

from __future__ import annotations

import numpy as np
import scipy.stats

from cql_atari.feed.sampling import BatchLaw, draw_games, draw_transitions

LAW = BatchLaw(draws=128, transitions_per_draw=4)
SIZES = np.array([3, 1000, 1, 50], np.int64)


def test_paper_batch():
    games, rows = draw_transitions(LAW, SIZES, seed=0, step=0)
    assert LAW.batch_size == 512 == len(games) == len(rows)
    assert games.dtype == np.int32 and rows.dtype == np.int64
    np.testing.assert_array_equal(
        games.reshape(128, 4), draw_games(LAW, 4, 0, 0)[:, None] + [0] * 4
    )
    assert (rows >= 0).all() and (rows < SIZES[games]).all()


def test_pure_in_seed_and_step():
    one = draw_transitions(LAW, SIZES, seed=5, step=7)
    np.random.default_rng(0).integers(9, size=3)
    draw_transitions(LAW, SIZES, seed=5, step=8)
    for a, b in zip(one, draw_transitions(LAW, SIZES, seed=5, step=7)):
        np.testing.assert_array_equal(a, b)
    for seed, step in [(5, 8), (6, 7), (7, 5), (2**63, 7), (5, 2**40)]:
        other = draw_transitions(LAW, SIZES, seed, step)
        assert any((a != b).any() for a, b in zip(one, other))


def test_uniform_over_games_and_rows():
    """Chi-square at p > 1e-4, for a fixed seed: games; rows within the game of 50."""
    drawn = [draw_transitions(LAW, SIZES, seed=1, step=step) for step in range(300)]
    games = np.concatenate([g[:: LAW.transitions_per_draw] for g, _ in drawn])
    assert scipy.stats.chisquare(np.bincount(games, minlength=4)).pvalue > 1e-4
    rows = np.concatenate([r[g == 3] for g, r in drawn])
    assert scipy.stats.chisquare(np.bincount(rows, minlength=50)).pvalue > 1e-4


def test_rows_of_a_draw_are_independent():
    """Two rows of one draw from a game of 50 coincide once in 50; games of two draws in 4."""
    same_row, same_game = [], []
    for step in range(400):
        games, rows = draw_transitions(LAW, SIZES, seed=2, step=step)
        of_50 = (games == 3)[::4]
        same_row.append((rows[::4] == rows[1::4])[of_50])
        same_game.append(games[::8] == games[4::8])
    same_row, same_game = np.concatenate(same_row), np.concatenate(same_game)
    for seen, chance in [(same_row, 1 / 50), (same_game, 1 / 4)]:
        tolerance = 4 * np.sqrt(chance * (1 - chance) / len(seen))
        assert abs(seen.mean() - chance) < tolerance


def test_games_and_rows_use_different_streams():
    law = BatchLaw(1000, 1)
    games, rows = draw_transitions(law, np.full(1000, 1000), seed=3, step=4)
    assert abs(np.corrcoef(games, rows)[0, 1]) < 0.2
