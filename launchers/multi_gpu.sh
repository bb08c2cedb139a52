#!/usr/bin/env bash
# Trains in one process on all GPUs of this machine, or on those of CUDA_VISIBLE_DEVICES. feed.draws
# must divide by their number.
# Usage: launchers/multi_gpu.sh [--dry_run] FLAGS...      (as for python -m cql_atari.train)
#   CUDA_VISIBLE_DEVICES=0,1 launchers/multi_gpu.sh --gin_files=gin_configs/multigame.gin \
#     --gin_bindings="data.dir='/data/dqn'" --workdir=runs/multigame
set -euo pipefail
# shellcheck source=launchers/common.sh
source "$(dirname "$0")/common.sh"

run "$python" -m cql_atari.train --gin_bindings="train.strategy='mirrored'" "$@"
