"""Players without a network, to collect graded data: random, one fixed action, or a script a game.

Scripts cheat: they read positions from the console's memory, which the agent never sees, so that
they play well in a few lines. Their addresses and constants were measured on ale-py's ROMs in the
default mode and difficulty. Mixed with noise (epsilon) they give data of any quality.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cql_atari.core import games
from cql_atari.core.types import UserError

# RAM, uint8 [128], before the step -> index in the full action set, within the game's minimal set.
Behaviour = Callable[[np.ndarray, np.random.Generator], int]

# (RAM now, RAM at the player's last step; both int [128]) -> action. Pure: velocities come from the
# difference, which is zero at an episode's first step. `acting` doesn't ask a player for random
# actions and at other players' turns: after these its last step is several steps ago, but the
# scripts take the difference for one step's: `demon_attack` then aims too far ahead, or takes a
# demon that flew far for a dead one; `pong` overrates its paddle's drift, and has a wrong slope
# where the ball bounced in between. That stays as it is: recorded play is reproducible by its seed.
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
    raise UserError(
        f"unknown behaviour {name!r}; there are random, scripted and fixed:<ACTION>, and where a "
        "trained network may play also checkpoint:<workdir> and online."
    )


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


def asterix(ram: np.ndarray, before: np.ndarray) -> int:
    """Goes for the nearest reward, through lanes without an enemy close by.

    Reads our lane (39) and x (41); in each of the 8 lanes the object's x (42 to 49), its kind (29
    to 36; odd for an enemy) and whether there is one (73 to 80; the lane's number, from 1, if not).
    """
    lane, lanes = min(ram[39], 7), np.arange(8)
    ahead = ram[42:50] - ram[41]
    there = ram[73:81] != lanes + 1
    enemy = there & (ram[29:37] % 2 == 1)
    danger = enemy & (abs(ahead) < 24)
    cost = 20 * abs(lanes - lane) + np.where(there & ~enemy, abs(ahead), 160) + 1000 * danger
    goal = int(cost.argmin())
    climb = np.sign(goal - lane)
    if danger[lane + climb] and not danger[lane]:
        climb = 0  # wait until the enemy has passed
    return _stick(ahead[goal] if there[goal] and abs(ahead[goal]) > 6 else 0, climb)


def battle_zone(ram: np.ndarray, before: np.ndarray) -> int:
    """Turns until a tank is in the sights, then drives at it and fires.

    Reads the nearest tank's x (48; 70 is the middle), whether it's in view (46), and a clock (84).
    """
    if not ram[46] or ram[48] >= 160:
        return RIGHT
    ahead = ram[48] - 70
    if abs(ahead) > 3:
        return _stick(ahead, 0)
    return _stick(0, -1 if ram[84] % 3 == 0 else 0, fire=True)


def boxing(ram: np.ndarray, before: np.ndarray) -> int:
    """Stands where one fist meets the other's head, and punches over and over.

    Reads x (32 ours, 33 theirs), y (34, 35) and the frame counter (0). A fist reaches out beside
    the body, so the place is 8 units above or below and 15 aside. A punch needs a fresh press.
    """
    x, y = ram[33] - ram[32], ram[35] - ram[34]
    too_far_x, too_far_y = abs(x) - 15, abs(y) - 8
    return _stick(
        x=np.sign(x) * too_far_x if abs(too_far_x) > 4 else 0,
        y=(np.sign(y) or 1) * too_far_y if abs(too_far_y) > 2 else 0,
        fire=abs(x) < 31 and abs(y) < 40 and ram[0] % 16 >= 8,
    )


def breakout(ram: np.ndarray, before: np.ndarray) -> int:
    """Keeps the paddle under the ball; reads the paddle's x (72) and the ball's (99, 101)."""
    if ram[101] == 0:  # no ball in play
        return FIRE
    ahead = ram[99] - ram[72] - 8
    return NOOP if abs(ahead) < 4 else RIGHT if ahead > 0 else LEFT


# By row of moving targets: places on a grid of 16 pixels that each copy pattern fills.
_COPIES = ((0,), (0, 1), (0, 2), (0, 1, 2), (0, 4), (0,), (0, 2, 4), (0,))


def carnival(ram: np.ndarray, before: np.ndarray) -> int:
    """Fires where a target will be when the bullet arrives; ammunition is limited.

    Reads our x (2), the bullet's y (55; 0 if none), and six groups of targets: x (18 to 23), kind
    (every second from 24; up to 48 for targets) and copy pattern (36 to 41). The two groups of the
    middle row go left, the others right.
    """
    if ram[55]:
        return NOOP
    ways = []
    for group, (speed, steps) in enumerate(zip((4, 4, -4, -4, 4, 4), (4, 4, 5, 5, 6, 6))):
        if ram[24 + 2 * group] <= 48:
            x = ram[18 + group] + speed * (steps + 0.35) / 3
            targets = ((x + 16 * place) % 160 for place in _COPIES[ram[36 + group] % 8])
            ways += [target + 2 - ram[2] for target in targets if 8 < target < 150]
    ahead = min(ways, key=abs, default=0)
    return FIRE if abs(ahead) <= 2 else RIGHT if ahead > 0 else LEFT


def demon_attack(ram: np.ndarray, before: np.ndarray) -> int:
    """Fires under the nearest demon, ahead of its flight; steps out of the way of bombs.

    Reads x of our gun (16), the demons (13 to 15) and the bombs (20), all as the video
    chip wants them, and which lines above the ground hold a bomb (37 to 41).
    """

    def place(byte: np.ndarray) -> np.ndarray:
        """Low nibble: steps of 15 pixels to the right; high nibble, signed: pixels to the left."""
        return 15 * (byte & 15) - ((byte >> 4) + 8) % 16 + 8

    gun, demons, last = place(ram[16]), place(ram[13:16]), place(before[13:16])
    bomb = place(ram[20]) - gun
    if ram[37:42].any() and abs(bomb) < 20:
        away = -1 if bomb > 0 else 1
        return _stick(1 if gun < 20 else -1 if gun > 125 else away, 0, fire=True)
    speed = demons - last
    alive = (speed != 0) & (abs(speed) < 20)  # dead ones leave their last place behind
    ahead = (demons + 4 + 2 * speed - gun)[alive]
    nearest = min(ahead, key=abs, default=0)
    return _stick(nearest if abs(nearest) > 4 else 0, 0, fire=True)


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


def kung_fu_master(ram: np.ndarray, before: np.ndarray) -> int:
    """Walks left, kicks low when an attacker is in reach, shakes off one that holds on.

    Reads our x (74), the leftmost attacker's (72; up to 49 if none), which others follow 16 and 32
    pixels behind it (63, bits 0 and 1), and the frame counter (0). A kick needs a fresh press.
    """
    press = ram[0] // 4 % 2 == 0
    places = [0] + [16 * (bit + 1) for bit in (0, 1) if ram[63] >> bit & 1]
    ahead = min((ram[72] + place - ram[74] for place in places), key=abs)
    if ram[72] <= 49 or abs(ahead) > 22:
        return LEFT
    if abs(ahead) < 12:
        return RIGHT if press else LEFT
    return _stick(ahead, 1 if press else 0, fire=press)


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
    "Asterix": asterix,
    "BattleZone": battle_zone,
    "Boxing": boxing,
    "Breakout": breakout,
    "Carnival": carnival,
    "DemonAttack": demon_attack,
    "Freeway": freeway,
    "KungFuMaster": kung_fu_master,
    "Pong": pong,
}
