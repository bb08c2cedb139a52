#!/usr/bin/env bash
# Trains on a single-host TPU VM: makes it or uses it again, installs this commit, trains. When it is
# taken away (spot), it is deleted and made again, and training goes on.
# Usage: launchers/tpu_vm.sh [--dry_run] NAME ZONE FLAGS...     (flags of python -m cql_atari.train)
#   SPOT=1 launchers/tpu_vm.sh cql us-central1-a --gin_files=gin_configs/multigame.gin \
#     --gin_bindings="data.dir='/mnt/dqn'" --workdir=/mnt/runs/multigame
# TYPE: accelerator type (v3-8). SPOT=1: as spot. Data and workdir must be on disks that outlive the VM.
# Delete it when you are done: gcloud compute tpus queued-resources delete NAME --zone=ZONE --force
set -euo pipefail
# shellcheck source=launchers/common.sh
source "$(dirname "$0")/common.sh"
TYPE=${TYPE:-v3-8} image=tpu-vm-tf-2.15.1-pjrt tpu=local
settings="NEXT_PLUGGABLE_DEVICE_USE_C_API=true TF_PLUGGABLE_DEVICE_LIBRARY_PATH=/lib/libtpu.so"
# shellcheck source=launchers/tpu_common.sh
source "$(dirname "$0")/tpu_common.sh"
