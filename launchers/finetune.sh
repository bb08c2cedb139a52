#!/usr/bin/env bash
# Fine-tunes online on the paper's three variants: Freeway mode 1, Hero mode 1, Breakout mode 12. Each
# from a pre-trained run's encoder and from scratch, and the table of all.
# Usage: launchers/finetune.sh [--dry_run] PRETRAINED OUT FLAGS...      (further flags of train)
#   launchers/finetune.sh runs/quickstart/agent runs/finetune \
#     --gin_files=gin_configs/networks/resnet_small.gin
# PRETRAINED is the --workdir of a train; FLAGS must give its network. VARIANTS='Freeway=1' takes some;
# any GAME=MODE that ALE offers will do. SEEDS='0 1 2' (default: 0). Each run goes on where it stopped.
set -euo pipefail
# shellcheck source=launchers/common.sh
source "$(dirname "$0")/common.sh"
[[ ${2-} ]] || fail "give OUT, the folder of the runs"
pretrained=$1 out=$2
shift 2

for variant in ${VARIANTS:-Freeway=1 Hero=1 Breakout=12}; do
  for seed in ${SEEDS:-0}; do
    flags=(--gin_files=gin_configs/finetune.gin "$@" --gin_bindings="GAME='${variant%=*}'"
      --gin_bindings="MODE=${variant#*=}" --gin_bindings="train.seed=$seed")
    run "$python" -m cql_atari.train "${flags[@]}" \
      --gin_bindings="start.encoder_from='$pretrained'" --workdir="$out/pretrained_${variant/=/_}_$seed"
    run "$python" -m cql_atari.train "${flags[@]}" "${from_scratch[@]}" \
      --workdir="$out/scratch_${variant/=/_}_$seed"
  done
done
run "$python" -m cql_atari.report "$out"
