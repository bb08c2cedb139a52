#!/usr/bin/env bash
# Trains on a TPU pod slice: as tpu_vm.sh, but installs on all workers and trains from the first only,
# which drives the others (TensorFlow on a pod has a single controller).
# Usage: launchers/tpu_pod.sh [--dry_run] NAME ZONE FLAGS...    (flags of python -m cql_atari.train)
#   SPOT=1 TYPE=v3-64 launchers/tpu_pod.sh cql us-central1-a --gin_files=gin_configs/multigame.gin \
#     --gin_bindings="data.dir='/mnt/dqn'" --workdir=/mnt/runs/multigame
# TYPE: accelerator type (v3-32). SPOT=1: as spot. Data and workdir must be on disks that outlive the
# pod; the first worker reads the data. Delete it when you are done:
# gcloud compute tpus queued-resources delete NAME --zone=ZONE --force
set -euo pipefail
# shellcheck source=launchers/common.sh
source "$(dirname "$0")/common.sh"
TYPE=${TYPE:-v3-32} image=tpu-vm-tf-2.15.1-pod-pjrt tpu=${1-}
settings="TPU_NAME=${1-} TPU_LOAD_LIBRARY=0"
# shellcheck source=launchers/tpu_common.sh
source "$(dirname "$0")/tpu_common.sh"
