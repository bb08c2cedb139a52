#!/usr/bin/env bash
# Whether every locked package has a wheel for Python 3.10 on 64-bit Linux, where no Python 3.10 is at hand.
# Downloads them (about 1.5 GB) into a folder that goes again. Usage: .ci/wheels_310.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# pip takes markers for the Python that runs it, not for --python-version: so they are taken here. Three
# packages are built from source everywhere.
sed -E '/python_version >= "3.11"/d; s/ *;.*//; /^(gym|promise|rliable)==/d' requirements.lock >"$folder/lock"
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
  --python-version 3.10 --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \
  --platform manylinux_2_17_x86_64 --platform manylinux1_x86_64 --dest "$folder/wheels" -r "$folder/lock"
echo "$(find "$folder/wheels" -name '*.whl' | wc -l) wheels for Python 3.10, all that the lock names."
