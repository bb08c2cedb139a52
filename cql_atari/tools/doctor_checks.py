"""Checks of what a configuration needs of this machine: devices, memory, disk, data and so on.

`cql_atari.tools.doctor` calls them. Only the standard library is imported up here, as there.
"""

from __future__ import annotations

import math
import os
import shutil
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cql_atari.tools.installation import Finding

if TYPE_CHECKING:
    from cql_atari.core.settings import Config

SERVER_SECONDS = 1.0  # that replay servers, asked all at once, have to answer
LATE = "no answer in time: a busy machine or a cold disk; run this again"
NVIDIA = Path("/proc/driver/nvidia")
_PACKED_BYTES = 2.4  # a step's share of the indices of packed play (docs/feeds.md)
_STAGES = {"gpus": "TensorFlow", "xla": "XLA", "reverb": "Reverb", "parameters": "network"}


def check_devices(config: Config, facts: dict[str, Any], why: str) -> list[Finding]:
    """What the probe found: devices, XLA, Reverb, the network; and where it stopped."""
    findings = []
    if "gpus" in facts:
        gpus, draws = facts["gpus"], config.feed.draws
        seen = f"{facts['tensorflow']}; {os.cpu_count()} CPU cores, {gpus} GPUs"
        findings.append(Finding("ok", "TensorFlow", seen))
        if not gpus and NVIDIA.exists():
            text = "this machine has NVIDIA's driver, but TensorFlow sees no GPU"
            fix = f"{sys.executable} -m pip install 'tensorflow[and-cuda]=={facts['tensorflow']}'"
            findings.append(Finding("wrong", "devices", text, fix))
        if config.train.strategy == "none" and gpus > 1:
            text = f"one of {gpus} GPUs will be used"
            findings.append(Finding("note", "devices", text, "launchers/multi_gpu.sh"))
        if config.train.strategy == "mirrored" and draws % max(gpus, 1):
            text = f"feed.draws = {draws} don't divide over {gpus} GPUs"
            fix = f"--gin_bindings='feed.draws = {-(-draws // gpus) * gpus}'"
            findings.append(Finding("wrong", "devices", text, fix))
    if "xla" in facts:
        findings.append(Finding("ok", "XLA", "compiles and runs"))
    if "reverb" in facts:
        findings.append(Finding("ok", "Reverb", "loads"))
    if why and not (why == LATE and "reverb" in facts):  # then check_disk has a note
        stopped = next(name for fact, name in _STAGES.items() if fact not in facts)
        fix = f"{sys.executable} -c 'import tensorflow, reverb, tf_agents' shows more"
        if stopped == "XLA" and why != LATE:
            fix = "--gin_bindings='train.jit_compile = False'"
        findings.append(Finding("wrong", stopped, why, fix))
    return findings


def check_memory(config: Config) -> list[Finding]:
    """Whether the feed fits in the free memory."""
    from cql_atari.core.types import FRAME_SHAPE
    from cql_atari.system.free_memory import free_bytes
    from cql_atari.tools.plan import replay_bytes

    free, feed, about = free_bytes(), config.feed, "memory"
    if feed.kind == "replay" or not _reads(config):
        tables = 0 if feed.servers or not _reads(config) else len(config.data.games)
        tables += config.train.phase == "online"
        if not tables:
            return [Finding("ok", about, f"{_gb(free)} free; feed.servers hold the replay")]
        need, fix = replay_bytes(config, tables), "--gin_bindings='feed.transitions_per_game = {}'"
        fix = fix.format(max(int(feed.transitions_per_game * free / need / 2), 1))
    else:
        if config.data.dir is None or (count := count_frames(config)) is None:
            return [Finding("note", about, f"{_gb(free)} free; the data's size isn't known here")]
        need, fix = count * math.prod(FRAME_SHAPE), "--gin_bindings=\"feed.kind = 'replay'\""
        if feed.kind == "packed":
            need, fix = round(count * _PACKED_BYTES), "select fewer data.suffixes or data.games"
        elif feed.cache_dir is not None:
            about, free = "cache", shutil.disk_usage(_existing(feed.cache_dir)).free
        elif feed.memory_gb is not None:
            free = min(free, int(feed.memory_gb * 1e9))
    state = "ok" if need < free else "wrong"
    kind = feed.kind if _reads(config) else "online replay's"
    text = f"{_gb(free)} free, about {_gb(need)} for the {kind} feed"
    return [Finding(state, about, text, fix if state == "wrong" else "")]


def check_disk(config: Config, workdir: Path, parameters: int | None) -> list[Finding]:
    """Whether the run's folder can be written and holds the checkpoints that are kept."""
    place = _existing(workdir)
    if not os.access(place, os.W_OK):
        return [Finding("wrong", "disk", f"{place} can't be written", "give another --workdir")]
    free = shutil.disk_usage(place).free
    if parameters is None:
        return [Finding("note", "disk", f"{_gb(free)} free in {place}; a checkpoint's size isn't "
                        "known", "see python -m cql_atari.tools.plan")]  # fmt: skip
    from cql_atari.tools.plan import checkpoint_bytes

    # One is written before one goes.
    need = (config.train.keep + 1) * checkpoint_bytes(config, parameters)
    text = f"{_gb(free)} free in {place}, {_gb(need)} for {config.train.keep} + 1 checkpoints"
    if free < need:
        return [Finding("wrong", "disk", text, "give another --workdir, or a lower train.keep")]
    return [Finding("ok", "disk", text)]


def check_roms(config: Config) -> list[Finding]:
    """Whether every game has a ROM, and the one that recorded its data."""
    from cql_atari.envs import roms

    total = len(config.data.games)
    if others := roms.find_others(config.data, config.evaluation.rom_dir):
        text = f"{total} there; {len(others)} didn't record the data: {', '.join(others)}"
        fix = "--gin_bindings=\"evaluation.rom_dir = 'FOLDER'\", if you have the recorded ones"
        return [Finding("note", "ROMs", text, fix)]
    return [Finding("ok", "ROMs", f"{total} there, those that recorded the data")]


def check_data(config: Config) -> list[Finding]:
    """Whether the selected recorded play is there, if this machine reads it."""
    from cql_atari.data import sources

    if not _reads(config):
        return [Finding("ok", "data", "none is read: the phase is online, without offline_share")]
    if config.feed.servers:
        return [Finding("ok", "data", "none is read here: feed.servers have it")]
    if config.data.dir is None:
        fix = "--gin_bindings=\"data.dir = 'FOLDER'\"; launchers/get_data.sh fetches some"
        return [Finding("note", "data", "no data.dir given", fix)]
    found = sources.find_sources(config.data)
    parts = sum(len(source.suffixes) for source in found)
    kinds = " and ".join(sorted({source.format for source in found}))
    return [
        Finding("ok", "data", f"{len(found)} runs, {parts} suffixes in {config.data.dir}, {kinds}")
    ]


def count_frames(config: Config) -> int | None:
    """Frames that the selected data hold; None where it would take reading everything."""
    from cql_atari.data import sources

    total = 0
    for source in sources.find_sources(config.data):
        for suffix in source.suffixes:
            extents = sources.survey(source, suffix)
            if extents is None:
                return None
            total += sum(extent.steps for extent in extents)
    return total


def check_ports(config: Config) -> list[Finding]:
    """Whether a server can listen here and be reached, also on the ports that are configured."""
    from cql_atari.core.types import UserError

    try:
        with socket.create_server(("", 0)) as server:
            socket.create_connection(("localhost", server.getsockname()[1]), timeout=2).close()
    except OSError as error:
        return [Finding("wrong", "ports", f"a server on localhost can't be reached ({error})",
                        "allow loopback connections in the firewall or sandbox")]  # fmt: skip
    outside = ", ".join(name for _, name in socket.if_nameindex() if name != "lo")
    text = "a server can listen" + (f"; Reverb's will be open to {outside}" if outside else "")
    ports = {}
    if config.train.phase == "online" and config.online.actors == "remote" and config.online.port:
        ports["online.port"] = config.online.port
    if "TF_CONFIG" in os.environ:
        from cql_atari.system.hosts import find_hosts

        try:
            here = find_hosts("multi_worker")
            ports["TF_CONFIG"] = int(here.addresses[here.host].rpartition(":")[2])
        except (UserError, ValueError) as error:
            return [Finding("wrong", "ports", str(error), "unset TF_CONFIG, or correct it")]
    for owner, port in ports.items():
        try:
            socket.create_server(("", port)).close()
        except (OSError, OverflowError) as error:
            return [Finding("wrong", "ports", f"port {port} of {owner}: {error}",
                            f"ss -ltnp 'sport = :{port}'")]  # fmt: skip
        text += f"; port {port} of {owner} is free"
    return [Finding("ok", "ports", text)]


def check_servers(config: Config) -> list[Finding]:
    """Whether each of `feed.servers` answers; takes `SERVER_SECONDS` in all, however many."""
    from cql_atari.system.ports import reach

    servers = config.feed.servers if _reads(config) else ()
    findings: dict[str, Finding] = {}

    def ask(address: str) -> None:
        try:
            reach(address, SERVER_SECONDS)
        except OSError as error:
            note_silence(address, str(error))
        else:
            findings[address] = Finding("ok", "servers", f"{address} answers")

    def note_silence(address: str, why: str) -> None:
        fix = f"python -m cql_atari.tools.serve_replay there, and its port open to here ({address})"
        findings[address] = Finding("wrong", "servers", f"{address} doesn't answer: {why}", fix)

    threads = []
    for address in servers:
        threads.append(threading.Thread(target=ask, args=(address,), daemon=True))
        threads[-1].start()
    deadline = time.monotonic() + SERVER_SECONDS
    for thread in threads:  # looking up a name may take longer than connecting
        thread.join(max(deadline - time.monotonic(), 0))
    for address in servers:
        if address not in findings:
            note_silence(address, f"nothing for {SERVER_SECONDS:g} s")
    return [findings[address] for address in servers]


def _reads(config: Config) -> bool:
    """Whether recorded play is read, here or by replay servers."""
    return config.train.phase == "offline" or config.online.offline_share > 0


def _gb(number: float) -> str:
    return f"{number / 1e9:.3g} GB"


def _existing(path: str | Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = Path(path).absolute()
    return next(place for place in (path, *path.parents) if place.exists())
