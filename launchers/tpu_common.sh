# shellcheck shell=bash
# What tpu_vm.sh and tpu_pod.sh share: capacity as a queued resource, installation, training.
# They set TYPE, image, tpu (the flag of train), settings (its environment); $1, $2: NAME and ZONE.
# Played against a stand-in for gcloud in tests/test_launchers.py; never run on a TPU by its authors.
: "${image:?}" "${tpu:?}" "${settings:?}"
[[ ${2-} ]] || fail "give NAME and ZONE"
name=$1 zone=$2
shift 2
queue() { run gcloud compute tpus queued-resources "$1" "$name" --zone="$zone" "${@:2}"; }
on_workers() { run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker="$1" --command="$2"; }
state() {
  gcloud compute tpus queued-resources describe "$name" --zone="$zone" \
    --format='value(state.state)' 2>/dev/null || true # no such resource yet
}

acquire() { # until the TPU is there
  local now
  until now=$([[ $dry_run ]] || state) && [[ $now == ACTIVE ]]; do
    case $now in
      SUSPENDED) queue delete --quiet --force ;; # taken away
      FAILED)                                    # as it would again: a bad TYPE, say, or no quota
        queue describe --format='yaml(state)' >&2 || true
        fail "$name is FAILED, see above; when its cause is gone, delete it and try again:" \
          "gcloud compute tpus queued-resources delete $name --zone=$zone --force"
        ;;
      "") queue create --node-id="$name" --accelerator-type="$TYPE" --runtime-version="$image" ${SPOT:+--spot} ;;
      *) echo "$name is $now; waiting for it" >&2 ;;
    esac
    if [[ $dry_run ]]; then return; fi
    sleep "${WAIT:-30}"
  done
}

# No evaluation on the way: it would read all weights from the TPU at each of its steps. Follow the
# run from a machine that sees its folder: python -m cql_atari.evaluate --run=DIR --follow
install_and_train() {
  local bundle=${TMPDIR:-/tmp}/cql_atari.tar.gz pip="python3 -m pip install --no-deps"
  # The image's own TensorFlow is the one that is built for TPUs.
  run git archive --output="$bundle" HEAD &&
    run gcloud compute tpus tpu-vm scp "$bundle" "$name:" --zone="$zone" --worker=all &&
    on_workers all "mkdir -p cql_atari && cd cql_atari && tar -xzf ../cql_atari.tar.gz && \
grep -v ^tensorflow== requirements.lock | $pip -r /dev/stdin && $pip --no-build-isolation -e ." &&
    on_workers 0 "cd cql_atari && env $settings $(quote python3 -m cql_atari.train \
      --tpu="$tpu" --gin_bindings="train.strategy='tpu'" --gin_bindings=evaluation.every=0 "$@")"
}

while :; do
  acquire
  code=0
  install_and_train "$@" || code=$?
  if [[ $dry_run || $code -eq 0 || $(state) == ACTIVE ]]; then exit "$code"; fi
  echo "$name was taken away; asking for another" >&2
done
