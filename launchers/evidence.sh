#!/usr/bin/env bash
# The experiments behind results/evidence, with all runs, tables and figures; each goes on where it stopped.
# Usage: launchers/evidence.sh [--dry_run] EXPERIMENT [OUT]             (runs/evidence)
#   quickstart  the quickstart over five seeds: A's point at 50 % of good play
#   A  the same amount of play, from wrong to good: when does Q-learning beat cloning?
#   in_turns  both players in turns within each episode: what if no whole episode is good?
#   laptop  the same with a fourth game, more play, twice the steps, through Reverb: gin_configs/laptop.gin
#   B  what an agent recorded while it learned online, all of it (run) and its first fifth     (one seed)
#   C  ablations and the strength of CQL, on the quickstart's play and on B's      (most of it run)
#   D  sizes of the network, on B's play     (three of them run, with OWN_SEED=8 and two games)
#   E  transfer to Boxing: encoders of several methods, tuned and frozen   (masked autoencoder's not run)
#   F  online fine-tuning on variants: from scratch, pre-trained, pre-trained and with CQL kept
# SEEDS='1 2' METHODS='agent cloning' take some; so do PERCENTS='0 100' EPSILONS=0.05 in A, PLAY=own_play in C,
# SIZES=8,16 in D, VARIANTS=Freeway=1 in F. Of B: OWN_GAMES=Krull OWN_SEED=8 OWN_STEPS=400000 OWN_AGENT=X.gin (that
# recorded) STEPS=24_000 CACHE=DIR PARTS='whole=1.0 early=data.suffixes=(0,1)'. With B's or EPSILONS take another OUT.
set -euo pipefail
# shellcheck source=launchers/common.sh
source "$(dirname "$0")/common.sh"
cd "$(dirname "$0")/.."
out=${2:-runs/evidence}
# All seeds, sizes and shares. Training seed s learns from play of seeds 100 s + run. The settings
# were chosen with training seed 0 and play of seeds 1 and 2; results/evidence names the exceptions.
seeds=${SEEDS:-1 2 3 4 5}
percents=${PERCENTS:-0 10 25 50 100} # of the steps that are a good player's
methods=${METHODS:-agent cloning best_ten_percent mse hl_gauss decision_transformer}
total=48000 own_steps=${OWN_STEPS:-40000} # agent steps of play a game, in A and in_turns, and in B
own_games=${OWN_GAMES:-KungFuMaster,Krull,CrazyClimber,RoadRunner} own_seed=${OWN_SEED:-7} # of B
changes=(no_feature_norm no_group_norm no_spatial_embedding mean_pool one_step five_step # of C: files, bindings
  loss.auxiliary_cloning=0. loss.cql_alpha={0.01,0.2,1.0} train.target_period=100
  loss.v_max=20. loss.v_max=20.+loss.cql_alpha=0.01) # both at once
sizes=${SIZES:-8,16 16,32 32,64 64,128} variants=${VARIANTS:-BattleZone=2 Freeway=1} # of D, of F
quickstart=$out/A/percent_good_play=50
on_own_play=(--gin_bindings="data.games=('${own_games//,/\', \'}',)" --gin_bindings="data.runs=(1,)"
  ${STEPS:+--gin_bindings=train.steps=$STEPS} ${CACHE:+--gin_bindings="feed.cache_dir='$CACHE'"})

collect() { # DIR GAMES RUN SEED PLAYER STEPS EPSILONS
  run "$python" -m cql_atari.collect --data_dir="$1/data" --games="$2" --run="$3" \
    --seed=$((100 * $4 + $3)) --behaviour="$5" --steps_per_game="$6" --epsilons="$7"
}

train() { # WORKDIR DATA SEED FLAGS...: the quickstart's run on other play
  run "$python" -m cql_atari.train --gin_files=gin_configs/multigame.gin \
    --gin_files=gin_configs/quickstart.gin "${@:4}" --gin_bindings="data.dir='$2'" \
    --gin_bindings="train.seed=$3" --workdir="$1"
}

method() { # NAME or NAME+NAME...: sets `flags` to those that make the quickstart's agent that method
  local part parts
  flags=()
  IFS=+ read -ra parts <<<"$1"
  for part in "${parts[@]}"; do
    case $part in
      agent) ;;
      decision_transformer) flags+=(--gin_files=gin_configs/quickstart_transformer.gin) ;;
      contrastive | masked_autoencoder) flags+=(--gin_files="gin_configs/$part.gin"
        --gin_bindings=feed.draws=8 --gin_bindings=train.steps=12_000
        --gin_bindings=optimizer.warmup_steps=1_200 --gin_bindings=evaluation.every=0) ;;
      *=*) flags+=(--gin_bindings="$part") ;;
      *) flags+=(--gin_files="gin_configs/ablations/$part.gin") ;;
    esac
  done
}

tune() { # PHASE WORKDIR SEED FLAGS...: a small run of the transfer or the online phase
  run "$python" -m cql_atari.train --gin_files="gin_configs/results/$1.gin" "${@:4}" \
    --gin_bindings="train.seed=$3" --workdir="$2"
}

report() { run "$python" -m cql_atari.report "$@"; }

mixture() { # PERCENT METHODS...: A's runs at one share of good play
  local dir runs="(1, 2)" good=$((total * $1 / 100)) name seed
  if [[ $1 -eq 0 ]]; then runs="(2,)"; elif [[ $1 -eq 100 ]]; then runs="(1,)"; fi
  for seed in $seeds; do
    dir=$out/A/percent_good_play=$1/$seed
    if [[ $good -gt 0 ]]; then
      collect "$dir" BattleZone,Freeway,KungFuMaster 1 "$seed" scripted $good "${EPSILONS:-0.2,0.3,0.5}"
    fi
    if [[ $good -lt $total ]]; then
      collect "$dir" BattleZone,Freeway 2 "$seed" fixed:DOWN $((total - good)) "${EPSILONS:-0.3,0.5,0.7}"
      collect "$dir" KungFuMaster 2 "$seed" fixed:RIGHT $((total - good)) "${EPSILONS:-0.3,0.5,0.7}"
    fi
    for name in "${@:2}"; do
      method "$name"
      if [[ $runs != "(1, 2)" ]]; then flags+=(--gin_bindings="data.runs=$runs"); fi
      train "$dir/$name" "$dir/data" "$seed" "${flags[@]}"
    done
  done
}

baselines() { # DIR FLAGS...: what needs no data
  local policy
  for policy in random best_fixed; do
    if [[ -s $1/$policy/scores.json ]]; then continue; fi
    run "$python" -m cql_atari.evaluate --policy=$policy --gin_files=gin_configs/multigame.gin \
      --gin_files=gin_configs/quickstart.gin "${@:2}" --out="$1/$policy"
  done
}

quickstart() {
  mixture 50 agent cloning
  baselines "$out/A"
  report "$quickstart" "$out/A/random" "$out/A/best_fixed"
}

A() {
  local percent
  for percent in $percents; do
    # shellcheck disable=SC2086
    mixture "$percent" $methods
  done
  baselines "$out/A"
  report "$out/A" --against=percent_good_play --figures="$out/A/figures" --json="$out/A/report.json"
}

turns() { # DIR SEED STEPS GAMES: play in which both players take turns within each episode
  local wrong
  for wrong in "$4=fixed:DOWN" KungFuMaster=fixed:RIGHT; do
    run "$python" -m cql_atari.collect --data_dir="$1/data" --games="${wrong%=*}" \
      --seed=$((100 * $2 + 1)) --steps_per_game="$3" --order=in_turns \
      --mixture="${wrong#*=}*0.6@0.3,0.5,0.7; scripted*0.4@0.2,0.3,0.5"
  done
}

in_turns() {
  local dir name seed
  for seed in $seeds; do
    dir=$out/in_turns/$seed
    turns "$dir" "$seed" $total BattleZone,Freeway
    for name in $methods; do
      method "$name"
      train "$dir/$name" "$dir/data" "$seed" "${flags[@]}" --gin_bindings="data.runs=(1,)"
    done
  done
  baselines "$out/A"
  report "$out/in_turns" "$out/A/random" "$out/A/best_fixed"
}

laptop() {
  local dir name seed laptop=(--gin_files=gin_configs/laptop.gin)
  for seed in ${SEEDS:-1 2 3}; do
    dir=$out/laptop/$seed
    turns "$dir" "$seed" 80000 BattleZone,Boxing,Freeway
    for name in ${METHODS:-agent cloning best_ten_percent decision_transformer}; do
      method "$name"
      if [[ $name == decision_transformer ]]; then # its own settings last, but for the play
        flags+=(--gin_bindings="data.games=('BattleZone', 'Boxing', 'Freeway', 'KungFuMaster')"
          --gin_bindings="data.runs=(1,)" --gin_bindings=feed.transitions_per_game=90_000
          --gin_bindings=train.steps=4_000)
      fi
      train "$dir/$name" "$dir/data" "$seed" "${laptop[@]}" "${flags[@]}"
    done
  done
  baselines "$out/laptop" "${laptop[@]}"
  report "$out/laptop"
}

B() {
  local name seed part
  run "$python" -m cql_atari.collect --data_dir="$out/B/data" --games="$own_games" --seed="$own_seed" \
    --behaviour=online --steps_per_game="$own_steps" --slots_per_file=40000 ${OWN_AGENT:+--gin_files="$OWN_AGENT"}
  baselines "$out/B" "${on_own_play[@]}"
  for part in ${PARTS:-whole=1.0 first_fifth=0.2}; do # a fraction of each file group, or a binding
    [[ $part == *=*=* ]] || part=${part/=/=data.fraction=}
    for seed in $seeds; do
      for name in $methods; do
        method "$name"
        train "$out/B/${part%%=*}/$seed/$name" "$out/B/data" "$seed" "${on_own_play[@]}" "${flags[@]}" \
          --gin_bindings="${part#*=}"
      done
    done
    report "$out/B/${part%%=*}" "$out/B/random" "$out/B/best_fixed" --data_dir="$out/B/data"
  done
}

C() {
  local name seed play=${PLAY:-quickstart own_play}
  if [[ $play == *quickstart* ]]; then mixture 50 agent; fi
  for seed in $seeds; do
    for name in ${METHODS:-"${changes[@]}"}; do
      method "$name"
      if [[ $play == *quickstart* ]]; then
        train "$out/C/quickstart/$name/$seed/agent" "$quickstart/$seed/data" "$seed" "${flags[@]}"
      fi
      if [[ $play == *own_play* ]]; then
        train "$out/C/own_play/$name/$seed/agent" "$out/B/data" "$seed" "${on_own_play[@]}" "${flags[@]}"
      fi
    done
  done
  if [[ $play == *quickstart* ]]; then report "$quickstart" "$out/C/quickstart"; fi
  if [[ $play == *own_play* ]]; then report "$out/B/whole" "$out/C/own_play"; fi
}

D() {
  local name seed size
  for size in $sizes; do
    for seed in $seeds; do
      for name in ${METHODS:-agent cloning}; do
        method "$name"
        train "$out/D/widths=$size/$seed/$name" "$out/B/data" "$seed" "${on_own_play[@]}" \
          "${flags[@]}" --gin_bindings="network.widths=($size)"
      done
    done
  done
  report "$out/D" --data_dir="$out/B/data"
}

E() {
  local seed name
  mixture 50
  run "$python" -m cql_atari.collect --data_dir="$out/E/data" --games=Boxing --seed=101 \
    --steps_per_game=40000 --epsilons=0.05,0.1,0.2,0.4,1.0 --slots_per_file=4000
  for seed in $seeds; do
    tune transfer "$out/E/scratch/$seed/agent" "$seed" --gin_bindings="data.dir='$out/E/data'"
    for name in ${METHODS:-agent cloning contrastive}; do # masked_autoencoder: 11 hours a seed
      method "$name"
      train "$quickstart/$seed/$name" "$quickstart/$seed/data" "$seed" "${flags[@]}"
      flags=(--gin_bindings="data.dir='$out/E/data'"
        --gin_bindings="start.encoder_from='$quickstart/$seed/$name'")
      tune transfer "$out/E/tuned_$name/$seed/agent" "$seed" "${flags[@]}"
      tune transfer "$out/E/frozen_$name/$seed/agent" "$seed" "${flags[@]}" \
        --gin_bindings=optimizer.encoder_learning_rate=0
    done
  done
  report "$out/E"
}

F() {
  local seed variant at
  mixture 50 agent
  for variant in $variants; do
    for seed in $seeds; do
      at=$out/F/$variant
      flags=(--gin_bindings="GAME='${variant%=*}'" --gin_bindings="MODE=${variant#*=}")
      tune finetune "$at/scratch/$seed/agent" "$seed" "${flags[@]}"
      flags+=(--gin_bindings="start.encoder_from='$quickstart/$seed/agent'"
        --gin_bindings=start.whole_network=True --gin_bindings=online.epsilon_start=0.01
        --gin_bindings=online.epsilon_end=0.01) # a warm start: gin_configs/warm_start.gin
      tune finetune "$at/warm/$seed/agent" "$seed" "${flags[@]}"
      tune finetune "$at/warm_with_cql/$seed/agent" "$seed" "${flags[@]}" \
        --gin_bindings=loss.cql_alpha=0.05
    done
    report "$out/F/$variant"
  done
}

case $1 in
  quickstart | in_turns | laptop | [A-F]) "$1" ;;
  *) fail "$1: choose quickstart, in_turns, laptop, A, B, C, D, E or F" ;;
esac
