#!/usr/bin/env bash
# The whole main job on a laptop: collect real play, train offline, clone as a baseline, evaluate,
# print the table. Every step goes on where it was stopped. Usage: launchers/quickstart.sh [DIR]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/quickstart}
python=${PYTHON:-python}
gin=(--gin_files=gin_configs/multigame.gin --gin_files=gin_configs/quickstart.gin
     --gin_bindings="data.dir='$out/data'")

run() { echo "+ $*" >&2; "$@"; }

run "$python" -m cql_atari.collect --data_dir="$out/data" --games=BattleZone,Freeway,KungFuMaster \
  --behaviour=scripted --steps_per_game=40000 --epsilons=0.1,0.2,0.4,0.7,1.0
run "$python" -m cql_atari.train "${gin[@]}" --workdir="$out/agent"
run "$python" -m cql_atari.train "${gin[@]}" --gin_files=gin_configs/ablations/cloning.gin \
  --workdir="$out/cloning"
for policy in random best_fixed; do
  [ -s "$out/$policy/scores.json" ] ||
    run "$python" -m cql_atari.evaluate --policy="$policy" "${gin[@]}" --out="$out/$policy"
done
run "$python" -m cql_atari.report "$out" --data_dir="$out/data"
