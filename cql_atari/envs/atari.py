"""Atari games in ALE with Dopamine's preprocessing: one at a time (`AtariEnv`), or several
copies that are stepped together (`make_vector`).

Preprocessing after Machado et al. 2018 as in Dopamine's `AtariPreprocessing`: frame skip 4, the
maximum of the last two greyscale screens, 84x84 by area interpolation, no no-op starts, no fire
reset, no end on a lost life. Episodes are cut at 108,000 emulator frames (27,000 agent steps).
Actions are indices in the console's full 18-action set; rewards are raw (not clipped).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import ale_py
import cv2
import numpy as np

from cql_atari.core import games
from cql_atari.core.types import FRAME_SHAPE, FRAME_SKIP, MAX_FRAMES, NUM_ACTIONS, STACK, UserError
from cql_atari.envs import roms
from cql_atari.envs.vector import NativeVector, Stepped, Switches, VectorEnv, checked_actions

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner for each console


class AtariEnv:
    """One game, with Dopamine's preprocessing.

    Args:
      game: CamelCase name, e.g. "SpaceInvaders".
      seed: seeds the emulator's generator, which decides where an action sticks.
      sticky: probability that a frame repeats the previous action (0.25 when DQN-Replay was
        collected, 0 in the paper's evaluation).
      mode: ALE game mode; the game's default where None.
      difficulty: ALE difficulty; the game's default where None.
      rom_dir: folder with `<rom>.bin` files to use instead of those that ale-py brings.
      max_frames: emulator frames after which an episode is cut (never raises).
      colour: whether `screen` is kept.

    Attributes:
      mode, difficulty: those in force.
      rom_md5: MD5 of the ROM file, in hexadecimal.
      is_default: whether these are ale-py's ROM and the game's default mode and difficulty.

    Raises:
      UserError: for an unknown game, a ROM that is missing or doesn't load, or a mode or difficulty
        that the game doesn't have.
    """

    def __init__(
        self,
        game: str,
        *,
        seed: int,
        sticky: float = 0.25,
        mode: int | None = None,
        difficulty: int | None = None,
        rom_dir: str | Path | None = None,
        max_frames: int = MAX_FRAMES,
        colour: bool = False,
    ):
        self._rom = str(roms.rom_path(game, rom_dir))
        self.rom_md5 = roms.md5(game, rom_dir)
        self._ale = ale_py.ALEInterface()
        self._ale.setFloat("repeat_action_probability", sticky)
        self._load(seed)
        modes, difficulties = self._ale.getAvailableModes(), self._ale.getAvailableDifficulties()
        self.mode = _offered(game, "mode", mode, modes)
        self.difficulty = _offered(game, "difficulty", difficulty, difficulties)
        self.is_default = (rom_dir, self.mode, self.difficulty) == (None, modes[0], difficulties[0])
        self._switch()
        self._screens = np.empty((2, *self._ale.getScreenDims()), np.uint8)
        self._colours = np.zeros((2, *self._ale.getScreenDims(), 3), np.uint8) if colour else None
        self._max_steps = -(-max_frames // FRAME_SKIP)  # rounded up, as ale-py does it
        self._steps = 0

    @property
    def ram(self) -> np.ndarray:
        """The console's memory, uint8 [128]."""
        return self._ale.getRAM()

    @property
    def screen(self) -> np.ndarray:
        """What the frame is made of, in colour, at the console's size: uint8 [210, 160, 3].

        The maximum of the last two screens, as many games draw an object in every other one only.
        """
        assert self._colours is not None
        return self._colours.max(0)

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Starts a game; returns its first frame, uint8 [84, 84].

        Args:
          seed: switches the console off and on, so that nothing is left of what was played before:
            some games keep memory over a reset. None: the console and its generator go on.
        """
        if seed is not None:
            self._load(seed)
            self._switch()
        self._ale.reset_game()
        self._steps = 0
        if self._colours is not None:
            self._ale.getScreenRGB(self._colours[0])
            self._colours[1] = 0
        self._ale.getScreenGrayscale(self._screens[0])
        self._screens[1] = 0
        return self._pooled()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool]:
        """Repeats an action for four frames, fewer where the game ends.

        Args:
          action: index in the full 18-action set.

        Returns:
          The next frame, uint8 [84, 84], a new array (at a terminal it may show older screens, as
          Dopamine's does); the raw reward; whether the game is over; whether the frame cap cut the
          episode here. After either flag, call `reset`.
        """
        if not 0 <= action < NUM_ACTIONS:
            raise UserError(f"action {action} is not in the full set, 0 to {NUM_ACTIONS - 1}")
        reward, terminal = 0.0, False
        for skipped in range(FRAME_SKIP):
            reward += self._ale.act(action)
            terminal = self._ale.game_over(with_truncation=False)
            if skipped >= FRAME_SKIP - 2:
                self._ale.getScreenGrayscale(self._screens[skipped - FRAME_SKIP + 2])
                if self._colours is not None:
                    self._ale.getScreenRGB(self._colours[skipped - FRAME_SKIP + 2])
            if terminal:
                break
        self._steps += 1
        return self._pooled(), reward, terminal, not terminal and self._steps >= self._max_steps

    def _load(self, seed: int) -> None:
        self._ale.setInt("random_seed", seed)
        self._ale.loadROM(self._rom)

    def _switch(self) -> None:
        self._ale.setMode(self.mode)
        self._ale.setDifficulty(self.difficulty)

    def _pooled(self) -> np.ndarray:
        # In place, as Dopamine does it: where a game ends in the middle of a step, screens that
        # weren't fetched show through, and the files were written so.
        np.maximum(self._screens[0], self._screens[1], out=self._screens[0])
        return cv2.resize(self._screens[0], FRAME_SHAPE, interpolation=cv2.INTER_AREA)


class LoopVector(VectorEnv):
    """Steps single environments one after the other, all of it in `receive`."""

    def __init__(self, switches: Switches, envs: Sequence[AtariEnv], seed: int):
        self.switches = switches
        self._envs = envs
        self._seed = seed
        self._actions = np.zeros(len(envs), np.int32)
        self._ended = np.zeros(len(envs), bool)
        self._stacks = np.zeros((len(envs), STACK, *FRAME_SHAPE), np.uint8)

    def reset(self, seed: int | None = None) -> np.ndarray:
        first = self._seed if seed is None else seed
        self._stacks[:], self._ended[:] = 0, False
        for k, env in enumerate(self._envs):
            self._stacks[k, -1] = env.reset(first + k)
        return self._stacks.copy()

    def send(self, actions: np.ndarray) -> None:
        self._actions = checked_actions(actions)

    def receive(self) -> Stepped:
        rewards = np.zeros(len(self._envs), np.float32)
        terminals, truncations = np.zeros((2, len(self._envs)), bool)
        for k, env in enumerate(self._envs):
            if self._ended[k]:
                self._stacks[k] = 0
                self._stacks[k, -1] = env.reset()
            else:
                self._stacks[k, :-1] = self._stacks[k, 1:]
                self._stacks[k, -1], rewards[k], terminals[k], truncations[k] = env.step(
                    int(self._actions[k])
                )
        self._ended = terminals | truncations
        return self._stacks.copy(), rewards, terminals, truncations


def make_vector(
    game: str,
    num_envs: int,
    *,
    seed: int,
    sticky: float,
    mode: int | None = None,
    difficulty: int | None = None,
    rom_dir: str | Path | None = None,
    max_frames: int = MAX_FRAMES,
) -> VectorEnv:
    """Copies of one game; copy k is seeded with seed + k. For arguments and errors see `AtariEnv`.

    ale-py's own threads step the game in its default mode and difficulty; as they know neither
    modes nor other ROMs, a loop over `AtariEnv` steps the rest.
    """
    switches, is_default = switches_of(game, mode, difficulty, rom_dir)
    if is_default:
        rom = games.spec(game).rom
        return NativeVector(
            switches, rom, num_envs, seed=seed, sticky=sticky, max_frames=max_frames
        )
    copies = [
        AtariEnv(
            game, seed=seed + k, sticky=sticky, mode=mode, difficulty=difficulty, rom_dir=rom_dir,
            max_frames=max_frames,
        )
        for k in range(num_envs)
    ]  # fmt: skip
    return LoopVector(switches, copies, seed)


@functools.cache
def switches_of(
    game: str, mode: int | None, difficulty: int | None, rom_dir: str | Path | None
) -> tuple[Switches, bool]:
    """The switches of a console that is set up so, and whether all of them are the defaults.

    For arguments and errors see `AtariEnv`.
    """
    one = AtariEnv(game, seed=0, mode=mode, difficulty=difficulty, rom_dir=rom_dir)
    return Switches(one.mode, one.difficulty, one.rom_md5), one.is_default


def _offered(game: str, what: str, wanted: int | None, offered: list[int]) -> int:
    """The wanted mode or difficulty, or the game's default, which ALE lists first."""
    if wanted is None:
        return offered[0]
    if wanted not in offered:
        raise UserError(f"{game} has no {what} {wanted}; it offers {', '.join(map(str, offered))}")
    return wanted
