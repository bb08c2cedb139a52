#!/usr/bin/env bash
# The whole main job on a laptop: collect real play, train offline, clone as a baseline, evaluate,
# print the table, film 20 seconds of the agent. Every step goes on where it was stopped.
#
# The play is what makes offline Q-learning worth it: half of each game's steps are a good
# player's (run 1), half are one that mostly does the same wrong thing (run 2).
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

collect() { # GAMES RUN PLAYER STEPS EPSILONS
  run "$python" -m cql_atari.collect --data_dir="$out/data" --games="$1" --run="$2" --seed="$2" \
    --behaviour="$3" --steps_per_game="$4" --epsilons="$5"
}

collect BattleZone,Freeway,KungFuMaster 1 scripted 24000 0.2,0.3,0.5
collect BattleZone,Freeway 2 fixed:DOWN 24000 0.3,0.5,0.7
collect KungFuMaster 2 fixed:RIGHT 24000 0.3,0.5,0.7
run "$python" -m cql_atari.train "${gin[@]}" --workdir="$out/agent"
run "$python" -m cql_atari.train "${gin[@]}" --gin_files=gin_configs/ablations/cloning.gin \
  --workdir="$out/cloning"
for policy in random best_fixed; do
  if [[ -s $out/$policy/scores.json ]]; then continue; fi
  run "$python" -m cql_atari.evaluate --policy="$policy" "${gin[@]}" --out="$out/$policy"
done
run "$python" -m cql_atari.report "$out" --data_dir="$out/data"
run "$python" -m cql_atari.play "$out/agent" --game=Freeway --max_steps=300 --out="$out/agent.mp4"
