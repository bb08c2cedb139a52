"""Players without a network, to collect graded data: random, one fixed action, or a script a game.

Scripts cheat: they read positions from the console's memory, which the agent never sees, so that
they play well in a few lines. Their addresses and constants were measured on ale-py's ROMs in the
default mode and difficulty. Mixed with noise (epsilon) they give data of any quality.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cql_atari import games
from cql_atari.types import UserError

# RAM, uint8 [128], before the step -> index in the full action set, within the game's minimal set.
Behaviour = Callable[[np.ndarray, np.random.Generator], int]

# The same RAM and that of the step before, both int [128] -> action. Pure: velocities come from
# the difference (which is zero at an episode's first step).
Script = Callable[[np.ndarray, np.ndarray], int]

NOOP, FIRE, UP, RIGHT, LEFT, DOWN = range(6)


def make(name: str, game: str) -> Behaviour:
    """A fresh player, to be used for one episode.

    Args:
      name: "random" (uniform over the minimal set), "scripted" (the game's entry in `SCRIPTS`), or
        "fixed:<ACTION>", e.g. "fixed:UPFIRE".
      game: CamelCase name.

    Raises:
      UserError: for an unknown game or name, a game without a script, or an action outside the
        game's minimal set.
    """
    actions = games.spec(game).actions
    kind, _, argument = name.partition(":")
    if name == "random":
        return lambda ram, rng: actions[rng.integers(len(actions))]
    if name == "scripted":
        if game not in SCRIPTS:
            raise UserError(
                f"no script plays {game}; there are scripts for {', '.join(sorted(SCRIPTS))}. "
                "Use one of these games, or 'random' or 'fixed:<ACTION>' instead of 'scripted'."
            )
        return _with_memory(SCRIPTS[game])
    if kind == "fixed":
        names = [games.ACTION_NAMES[action] for action in actions]
        if argument not in names:
            raise UserError(f"{game} has no action {argument!r}; it has {', '.join(names)}")
        action = games.ACTION_NAMES.index(argument)
        return lambda ram, rng: action
    raise UserError(f"unknown behaviour {name!r}; use random, scripted or fixed:<ACTION>")


def _with_memory(script: Script) -> Behaviour:
    """Widens the RAM to int, so that differences don't wrap, and keeps the last one."""
    before = None

    def act(ram: np.ndarray, rng: np.random.Generator) -> int:
        nonlocal before
        now = ram.astype(int)
        action = script(now, now if before is None else before)
        before = now
        return action

    return act


def _stick(x: float, y: float, fire: bool = False) -> int:
    """The joystick's action; only the signs of x (right positive) and y (down positive) count."""
    name = ("", "DOWN", "UP")[int(np.sign(y))] + ("", "RIGHT", "LEFT")[int(np.sign(x))]
    return games.ACTION_NAMES.index(name + "FIRE" * fire or "NOOP")


def boxing(ram: np.ndarray, before: np.ndarray) -> int:
    """Stands where one fist meets the other's head, and punches over and over.

    Reads x (32 ours, 33 theirs), y (34, 35) and the frame counter (0). A fist reaches out beside
    the body, so the place is 9 units above or below and 16 aside. A punch needs a fresh press.
    """
    x, y = ram[33] - ram[32], ram[35] - ram[34]
    too_far_x, too_far_y = abs(x) - 16, abs(y) - 9
    return _stick(
        x=np.copysign(too_far_x, x) if abs(too_far_x) > 5 else 0,
        y=np.copysign(too_far_y, y) if abs(too_far_y) > 2 else 0,
        fire=abs(x) < 40 and abs(y) < 40 and ram[0] % 16 >= 4,
    )


def breakout(ram: np.ndarray, before: np.ndarray) -> int:
    """Keeps the paddle under the ball; reads the paddle's x (72) and the ball's (99, 101)."""
    if ram[101] == 0:  # no ball in play
        return FIRE
    ahead = ram[99] - ram[72] - 8
    return NOOP if abs(ahead) < 4 else RIGHT if ahead > 0 else LEFT


# Pixels a frame in each lane, from the lowest (game mode 0).
_CAR_SPEEDS = np.array([1 / 5, 1 / 4, 1 / 3, 1 / 2, 1, -1, -1 / 2, -1 / 3, -1 / 4, -1 / 5])


def freeway(ram: np.ndarray, before: np.ndarray) -> int:
    """Goes up unless that ends under a car within 12 frames; then does what stays safe longest.

    Reads the chicken's height (14; one pixel a frame) and the cars' x (108 to 117, lowest first).
    """
    frames = np.arange(1, 13)[:, None]
    cars = (ram[108:118] + _CAR_SPEEDS * frames) % 160

    def safe_frames(climb: int) -> int:
        height = np.clip(ram[14] + climb * frames, 6, 176)
        near = (abs(height - 21 - 16 * np.arange(10)) < 9) & (abs(cars - 47) < 8)
        return int(np.append(near.any(axis=1), True).argmax())

    return max((UP, 1), (NOOP, 0), (DOWN, -1), key=lambda move: safe_frames(move[1]))[0]


def pong(ram: np.ndarray, before: np.ndarray) -> int:
    """Meets the ball where it will cross our line, with the end of the paddle, so that it's steep.

    Reads the ball (49 x, 54 y) and our paddle's y (51).
    """
    (x, y, paddle), last = ram[[49, 54, 51]], before[[49, 54, 51]]
    if x == 0 or y == 0:  # no ball in play
        return NOOP
    vx, vy, drift = (x, y, paddle) - last
    if 0 < vx < 40 and abs(vy) < 60:  # coming, and not just served
        y += vy * (188 - x) / vx
    edge = 4 if paddle < 110 else -4
    ahead = y - 7 - edge - (paddle + drift)
    return NOOP if abs(ahead) <= 4 else LEFT if ahead > 0 else RIGHT  # RIGHT moves up


SCRIPTS: dict[str, Script] = {
    "Boxing": boxing,
    "Breakout": breakout,
    "Freeway": freeway,
    "Pong": pong,
}
