#!/usr/bin/env bash
# The Dockerfile's steps without a container: its COPY and RUN lines, one after the other, in a new folder, then
# the command that it ends in. It needs make and Python 3.10 or 3.11 here; what the image's own line of apt-get
# would install is taken as there. Usage: .ci/container_steps.sh FOLDER
set -euo pipefail
source=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:?usage: .ci/container_steps.sh FOLDER}
[[ ! -e $folder ]] || { echo "error: $folder is there already; give a new folder." >&2; exit 2; }
mkdir -p "$folder"
cd "$folder"

copy() { # FROM... TO, as git has the files: no data, no runs, no environment
  local to=${*: -1}
  mkdir -p "$to"
  for from in "${@:1:$#-1}"; do
    # A folder's content goes into TO, as COPY has it.
    local strip=0
    if [[ -d $source/$from && $from != . ]]; then strip=$(awk -F/ '{print NF}' <<<"$from"); fi
    (cd "$source" && git ls-files -z --cached --others --exclude-standard -- "$from" |
      tar --null --files-from=- -c) | tar -x -C "$to" --strip-components="$strip"
  done
}

while read -r step arguments; do
  echo "+ $step $arguments"
  case $step in
    COPY) read -ra words <<<"$arguments" && copy "${words[@]}" ;;
    RUN) [[ $arguments == apt-get* ]] || bash -euo pipefail -c "$arguments" ;;
    ENV) export "${arguments%%=*}=$(sed "s|^[^=]*=||; s|\"||g; s|/cql_atari/|$PWD/|; s|\$PATH|$PATH|" <<<"$arguments")" ;;
    CMD) eval "$(tr -d '[],' <<<"$arguments")" ;;
    FROM | WORKDIR) ;;
    *) echo "error: the Dockerfile has a step that this script doesn't know: $step" >&2 && exit 2 ;;
  esac
done < <(grep -vE '^(#|$)' "$source/Dockerfile")
