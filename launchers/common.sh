# shellcheck shell=bash
# What the launchers share; each sources it first. Takes --dry_run out of the arguments, prints the
# launcher's head comment as usage where none is left, and brings `show` (prints a command) and `run`
# (runs it as well).
dry_run=
arguments=()
for argument; do
  if [[ $argument == --dry_run ]]; then dry_run=1; else arguments+=("$argument"); fi
done
set -- "${arguments[@]}"
if [[ $# -eq 0 || $1 == --help ]]; then
  sed -n '2,/^[^#]/ s/^# //p' "$0" >&2
  exit $(($# ? 0 : 2))
fi

# The repository's own environment, whether it is active or not.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
if [[ ! -x $python ]]; then python=python; fi
# shellcheck disable=SC2034  # for those who source this
python=${PYTHON:-$python}
# After the flags that a pre-trained run and its baseline share: a frozen or slower encoder, or a whole
# network to start with, isn't for the baseline.
# shellcheck disable=SC2034
from_scratch=(--gin_bindings=start.encoder_from=None --gin_bindings=start.whole_network=False
  --gin_bindings=optimizer.encoder_learning_rate=None)

fail() {
  echo "error: $*" >&2
  exit 2
}

quote() { # words as they can be typed, in as few quotes as can be
  local word line=
  for word; do
    case $word in
      *[\"\$\`\\\!]*) line+=" ${word@Q}" ;;
      *[!A-Za-z0-9_./:=,@%+-]* | "") line+=" \"$word\"" ;;
      *) line+=" $word" ;;
    esac
  done
  echo "${line:1}"
}

show() {
  if [[ $dry_run ]]; then quote "$@"; else echo "+ $(quote "$@")" >&2; fi
}

run() {
  show "$@"
  if [[ ! $dry_run ]]; then "$@"; fi
}
