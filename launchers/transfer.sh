#!/usr/bin/env bash
# Offline transfer: learns each of the paper's five held-out games from 1 % of its data, once with a
# pre-trained run's encoder and once from scratch, and prints the table of all.
# Usage: launchers/transfer.sh [--dry_run] PRETRAINED DATA_DIR OUT FLAGS...    (further flags of train)
#   launchers/transfer.sh runs/multigame /data/dqn runs/transfer
#   launchers/transfer.sh runs/small /data/dqn runs/frozen --gin_files=gin_configs/networks/resnet_small.gin \
#     --gin_bindings=optimizer.encoder_learning_rate=0
# PRETRAINED is the --workdir of a train; FLAGS must give its network. GAMES='Pong Alien' takes some
# (any game will do), SEEDS='0 1 2' more seeds. Each run goes on where it stopped.
set -euo pipefail
# shellcheck source=launchers/common.sh
source "$(dirname "$0")/common.sh"
[[ ${2-} ]] || fail "give DATA_DIR"
[[ ${3-} ]] || fail "give OUT, the folder of the runs"
pretrained=$1 data=$2 out=$3
shift 3

for game in ${GAMES:-Alien MsPacman Pong SpaceInvaders StarGunner}; do
  for seed in ${SEEDS:-0}; do
    flags=(--gin_files=gin_configs/transfer.gin --gin_bindings="data.dir='$data'" "$@"
      --gin_bindings="GAME='$game'" --gin_bindings="train.seed=$seed")
    run "$python" -m cql_atari.train "${flags[@]}" \
      --gin_bindings="start.encoder_from='$pretrained'" --workdir="$out/pretrained_${game}_$seed"
    run "$python" -m cql_atari.train "${flags[@]}" "${from_scratch[@]}" \
      --workdir="$out/scratch_${game}_$seed"
  done
done
run "$python" -m cql_atari.report "$out"
