#!/usr/bin/env bash
# Trains in one process on one device of this machine: its GPU, else its CPU.
# Usage: launchers/local.sh [--dry_run] FLAGS...      (as for python -m cql_atari.train)
#   launchers/local.sh --gin_files=gin_configs/multigame.gin \
#     --gin_bindings="data.dir='/data/dqn'" --workdir=runs/multigame
# After an interruption (exit code 75, or a kill) the same command goes on.
set -euo pipefail
# shellcheck source=launchers/common.sh
source "$(dirname "$0")/common.sh"

run "$python" -m cql_atari.train "$@"
