"""Which episodes of a game an evaluation consists of, and which one is to be played next.

Episode i of a game is played on a console seeded with `seed + i`, and all randomness in it follows
from the seed, the game and i. So its score depends neither on the environment that plays it nor on
what is played beside or before it, and an interrupted evaluation goes on with the missing episodes.
"""

from __future__ import annotations

from collections.abc import Mapping

from cql_atari.core.types import EpisodeScore


class Schedule:
    """The episodes of one game: a fixed number, or as many as make up a number of agent steps.

    Taking those that finish first would favour short ones; here the first ones by number count.

    Args:
      episodes: how many; None: by agent steps.
      agent_steps: as Dopamine evaluates: whole episodes are played until their steps together
        reach this. The one that reaches it is played to its end and counts.
      finished: by number, those that are known already.
    """

    def __init__(
        self, episodes: int | None, agent_steps: int | None, finished: Mapping[int, EpisodeScore]
    ) -> None:
        self.finished = dict(finished)
        self.playing: dict[int, int] = {}  # number -> agent steps so far
        self._episodes, self._agent_steps = episodes, agent_steps

    def next(self) -> int | None:
        """The lowest number of an episode that is needed, as far as is known, and not yet begun."""
        steps, number = 0, 0
        while self._wanted(number, steps):
            if number in self.finished:
                steps += self.finished[number].length
            elif number in self.playing:
                steps += self.playing[number]
            else:
                return number
            number += 1
        return None

    def result(self) -> list[EpisodeScore] | None:
        """The episodes in order; None where one is missing."""
        steps, number = 0, 0
        while self._wanted(number, steps):
            if number not in self.finished:
                return None
            steps += self.finished[number].length
            number += 1
        return [self.finished[i] for i in range(number)]

    def steps(self, cap: int) -> tuple[float, float]:
        """(agent steps of this evaluation by now, what they will come to, as far as is known).

        Args:
          cap: agent steps of the longest possible episode, assumed while none has finished.
        """
        done = sum(score.length for score in self.finished.values()) + sum(self.playing.values())
        if self._agent_steps is not None:
            return min(done, self._agent_steps), self._agent_steps
        assert self._episodes is not None
        finished = len(self.finished)
        # Of unfinished episodes only a lower bound of their length is known. The likeliest mean of
        # an exponential law is then all steps divided by the number of finished episodes.
        mean = min(cap, done / finished) if finished else cap
        return done, done if finished >= self._episodes else max(done, mean * self._episodes)

    def _wanted(self, number: int, steps_before: int) -> bool:
        if self._agent_steps is not None:
            return steps_before < self._agent_steps
        assert self._episodes is not None
        return number < self._episodes
