#!/bin/sh
# Wheels of evac and of everything it needs, as uv.lock pins them, in one folder: for a laptop with no network.
# They are for the Python and the machine that this runs on. Usage: scripts/wheelhouse.sh DIR
set -eu
cd "$(dirname "$0")/.."
folder=${1:?name a folder}
uv=${UV:-$(command -v uv || echo .tools/bin/uv)}
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$uv" export --quiet --frozen --no-default-groups --no-emit-project --extra all -o "$work/requirements.txt"
"$uv" build --quiet --wheel -o "$work/evac"
python3 -m venv "$work/pip"
"$work/pip/bin/pip" download --quiet --disable-pip-version-check --no-deps --require-hashes \
  --only-binary :all: -r "$work/requirements.txt" -d "$folder"
cp "$work"/evac/evac-*.whl "$folder/"
echo "$folder: $(ls "$folder" | wc -l) wheels"
