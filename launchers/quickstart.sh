#!/usr/bin/env bash
# The whole main job on a laptop: collect real play, train offline, clone as a baseline, evaluate,
# print the table. Every step goes on where it was stopped.
# Usage: launchers/quickstart.sh [--dry_run] [DIR]      (runs/quickstart)
set -euo pipefail
set -- "$@" runs/quickstart # comes first where no DIR is given
# shellcheck source=launchers/common.sh
source "$(dirname "$0")/common.sh"
if [[ $1 != [!-]* || $# -gt 2 ]]; then fail "takes DIR only, not: ${*:1:$#-1}"; fi
cd "$(dirname "$0")/.."
out=$1
gin=(--gin_files=gin_configs/multigame.gin --gin_files=gin_configs/quickstart.gin
     --gin_bindings="data.dir='$out/data'")

run "$python" -m cql_atari.collect --data_dir="$out/data" --games=BattleZone,Freeway,KungFuMaster \
  --behaviour=scripted --steps_per_game=40000 --epsilons=0.1,0.2,0.4,0.7,1.0
run "$python" -m cql_atari.train "${gin[@]}" --workdir="$out/agent"
run "$python" -m cql_atari.train "${gin[@]}" --gin_files=gin_configs/ablations/cloning.gin \
  --workdir="$out/cloning"
for policy in random best_fixed; do
  if [[ -s $out/$policy/scores.json ]]; then continue; fi
  run "$python" -m cql_atari.evaluate --policy="$policy" "${gin[@]}" --out="$out/$policy"
done
run "$python" -m cql_atari.report "$out" --data_dir="$out/data"
