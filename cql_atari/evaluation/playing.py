"""The environments of one game in an evaluation, and the episodes under way in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cql_atari.core import games as game_table
from cql_atari.core.types import FRAME_SHAPE, NUM_ACTIONS, STACK, EpisodeScore, UserError
from cql_atari.envs.vector import VectorEnv
from cql_atari.evaluation.schedule import Schedule
from cql_atari.system.progress import Progress


class Seat:
    """One environment, and the episode that is being played in it."""

    def __init__(self, environment: int) -> None:
        self.environment = environment
        self.env: VectorEnv | None = None
        self.frames = np.zeros((STACK, *FRAME_SHAPE), np.uint8)
        self.starting: Future[np.ndarray] | None = None  # the first stack, once it is there
        self.episode: int | None = None

    def begin(self, episode: int, generator: np.random.Generator) -> None:
        self.episode, self.generator = episode, generator
        self.begins, self.action, self.reward = True, 0, 0.0
        self.score, self.length = 0.0, 0
        self.counts = np.zeros(NUM_ACTIONS, int)


@dataclass
class Game:
    """One game's environments.

    Attributes:
      name: CamelCase.
      head: the game's position among those that the policy knows.
      seats: its environments, each with a number that no other game's has.
      schedule: of its episodes.
      make: makes an environment, one copy of the game.
      note: called with every episode's score as it ends.
      epsilon: probability of a random action.
      seed: of episode 0's console.
      results: all episodes, once they have ended.
    """

    name: str
    head: int
    seats: list[Seat]
    schedule: Schedule
    make: Callable[[], VectorEnv]
    note: Callable[[EpisodeScore], object]
    epsilon: float
    seed: int

    def __post_init__(self) -> None:
        self.results = self.schedule.result()
        self._actions = np.sort(game_table.to_full_actions(self.name))

    def begin(self, pool: ThreadPoolExecutor) -> None:
        """Gives every environment that has none the next episode."""
        for seat in self.seats:
            if seat.episode is None and (number := self.schedule.next()) is not None:
                self.schedule.playing[number] = 0
                key = [self.seed, *self.name.encode(), number]
                seat.begin(number, np.random.default_rng(key))
                seat.starting = pool.submit(self._start, seat, number)

    def _start(self, seat: Seat, number: int) -> np.ndarray:
        seat.env = seat.env or self.make()
        return seat.env.reset(self.seed + number)[0]

    def ready(self) -> list[Seat]:
        """The environments whose episode is under way, which await an action."""
        for seat in self.seats:
            if seat.starting and seat.starting.done():
                seat.frames, seat.starting = seat.starting.result(), None
        return [seat for seat in self.seats if seat.episode is not None and not seat.starting]

    def send(self, seats: Sequence[Seat], values: np.ndarray) -> None:
        """Begins a step; actions are epsilon-greedy by values [n, 18] within the minimal set."""
        allowed = values[:, self._actions]
        if not np.isfinite(allowed).all():
            raise UserError(
                f"the policy's values for {self.name} are not finite; the network has diverged: "
                "evaluate an earlier checkpoint"
            )
        for seat, best in zip(seats, allowed.argmax(1)):
            explores = seat.generator.random() < self.epsilon
            chosen = seat.generator.integers(len(self._actions)) if explores else best
            seat.action = int(self._actions[chosen])
            assert seat.env is not None
            seat.env.send(np.array([seat.action], np.int32))

    def receive(self, seats: Sequence[Seat]) -> None:
        """Ends the step that `send` began."""
        for seat in seats:
            assert seat.env is not None and seat.episode is not None
            stacks, rewards, terminals, truncations = seat.env.receive()
            seat.frames, seat.reward, seat.begins = stacks[0], float(rewards[0]), False
            seat.score += seat.reward
            seat.length += 1
            seat.counts[seat.action] += 1
            self.schedule.playing[seat.episode] = seat.length
            if terminals[0] or truncations[0]:
                self._finish(seat, seat.env, truncated=not terminals[0])

    def _finish(self, seat: Seat, env: VectorEnv, truncated: bool) -> None:
        assert seat.episode is not None
        score = EpisodeScore(
            game=self.name,
            score=seat.score,
            length=seat.length,
            truncated=truncated,
            seed=self.seed + seat.episode,
            nth=0,
            mode=env.switches.mode,
            difficulty=env.switches.difficulty,
            rom_md5=env.switches.rom_md5,
            action_counts=tuple(seat.counts.tolist()),
        )
        del self.schedule.playing[seat.episode]
        self.schedule.finished[seat.episode] = score
        seat.episode = None
        self.note(score)
        self.results = self.schedule.result()


class Line:
    """Shows the progress of all games in agent steps, and a lasting line for each that is over."""

    def __init__(self, games: Sequence[Game], cap: int) -> None:
        self._games, self._cap = games, cap
        self._unsaid = [game for game in games if game.results is None]
        done, total = self._steps()
        title = games[0].name if len(games) == 1 else f"{len(games)} games"
        self.progress = Progress(f"evaluating {title}", "agent steps", total, done=done)

    def show(self) -> None:
        over = [game for game in self._unsaid if game.results is not None]
        if not over and not self.progress.is_due():
            return
        done, self.progress.total = self._steps()
        episodes = sum(len(game.schedule.finished) for game in self._games)
        self.progress.show(done, f"{episodes:,} episodes over")
        for game in over:
            self._unsaid.remove(game)
            scores = [score.score for score in game.results or ()]
            said = f"{game.name} done: {len(scores)} episodes, mean score {np.mean(scores):,.1f}"
            self.progress.say(self.progress.text(said))

    def _steps(self) -> tuple[float, float]:
        done, total = zip(*(game.schedule.steps(self._cap) for game in self._games))
        return sum(done), sum(total)
