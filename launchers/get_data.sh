#!/usr/bin/env bash
# Fetches DQN-Replay as RLDS (46 games, 5 runs each of 50M steps in 50 splits; Carnival, Gravitar and
# StarGunner: 49). A run is tens of GiB (Alien_run_1: 74); nothing that is there is fetched again.
# Usage: launchers/get_data.sh [--dry_run] tfds DIR GAME_run_N...
#   TensorFlow Datasets copies its prepared files, or builds them from gs://rl_unplugged: all splits.
# Usage: launchers/get_data.sh [--dry_run] gsutil DIR GAME_run_N...
#   The prepared files themselves, of the splits that match SPLITS (default: all):
#   SPLITS='0[0-9]' launchers/get_data.sh gsutil /data/rlds Breakout_run_1 Pong_run_1     (first 20 %)
# Then train with --gin_bindings="data.dir='DIR'".
# The .gz files, gs://atari-replay-datasets, answer 403 to everyone since 2025, whatever account is
# used: take RLDS instead. A local copy of them works as it is (data.dir). No data at all:
# python -m cql_atari.collect plays its own.
set -euo pipefail
# shellcheck source=launchers/common.sh
source "$(dirname "$0")/common.sh"
[[ ${2-} ]] || fail "give DIR"
[[ ${3-} ]] || fail "give what to fetch, for example Breakout_run_1"
way=$1 dir=$2 && shift 2
name=rlu_atari_checkpoints_ordered

case $way in
  tfds)
    for config; do
      run "$python" -c "import sys, tensorflow_datasets as tfds; \
tfds.builder(sys.argv[2], data_dir=sys.argv[1]).download_and_prepare()" "$dir" "$name/$config"
    done
    ;;
  gsutil)
    for config; do
      run mkdir -p "$dir/$name/$config/1.1.0"
      run gsutil -m cp -n "gs://tfds-data/datasets/$name/$config/1.1.0/*.json" \
        "gs://tfds-data/datasets/$name/$config/1.1.0/$name-checkpoint_${SPLITS:-??}.tfrecord*" \
        "$dir/$name/$config/1.1.0/" || { echo "error: not there; use tfds instead of gsutil" >&2 && exit 1; }
    done
    ;;
  *) fail "$way: choose tfds or gsutil" ;;
esac
