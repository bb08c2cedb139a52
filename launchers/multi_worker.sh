#!/usr/bin/env bash
# Trains on several hosts in step, one process a host.
# Usage: launchers/multi_worker.sh [--dry_run] HOST,HOST,... FLAGS...     starts them by ssh
#        launchers/multi_worker.sh [--dry_run] slurm FLAGS...             inside a SLURM allocation
# FLAGS are as for python -m cql_atari.train. Each host has this checkout and its environment at the
# same path (run this from there), the data, and --workdir on a disk that all of them see.
# PORT (12345) must be open between the hosts, and closed to others. PYTHON: which Python, if not .venv's.
# When one process ends with an error, or this is stopped, all are ended; the same command goes on.
set -euo pipefail
# shellcheck source=launchers/common.sh
source "$(dirname "$0")/common.sh"
where=$1 && shift
train=("$python" -m cql_atari.train --gin_bindings="train.strategy='multi_worker'" "$@")

if [[ $where == slurm ]]; then
  # From SLURM 22.05 on a step doesn't take over the CPUs of its job by itself.
  run srun --ntasks-per-node=1 ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
    --kill-on-bad-exit=1 "${train[@]}"
  exit
fi

IFS=, read -ra hosts <<<"$where"
printf -v workers ', "%s"' "${hosts[@]/%/:${PORT:-12345}}"
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT # Ctrl-C alone doesn't reach what is in the background
trap 'exit 130' INT && trap 'exit 143' TERM
for index in "${!hosts[@]}"; do
  cluster='{"cluster": {"worker": ['${workers:2}']}, "task": {"type": "worker", "index": '$index'}}'
  # -tt: the process there ends with the connection.
  command=(ssh -tt "${hosts[index]}"
    "cd $(quote "$PWD") && exec env $(quote "TF_CONFIG=$cluster" "${train[@]}")")
  show "${command[@]}"
  if [[ ! $dry_run ]]; then "${command[@]}" </dev/null & fi
done
code=0 left=${WAIT:-60}
# Not for each of `jobs -p`, which leaves out what has ended already.
for _ in "${hosts[@]}"; do [[ $dry_run ]] || wait -n || { code=$? && break; }; done
if [[ $code -eq 75 ]]; then # asked to stop, as all are then: the others may still be saving
  while [[ $((left--)) -gt 0 && $(jobs -pr) ]]; do sleep 1; done
fi
exit "$code"
