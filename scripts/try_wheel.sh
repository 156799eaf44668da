#!/bin/bash
# Builds the wheel, installs it into an empty environment, and tries every command there, far from the checkout:
# without extras, then with those of the war room, then with all of them. Prints what the environment weighs each
# time, and what the first answers take.
set -eu -o pipefail
cd "$(dirname "$0")/.."
root=$PWD
uv=${UV:-$(command -v uv || echo "$root/.tools/bin/uv")}
case $uv in */*) uv=$(realpath "$uv") ;; esac # make names it from here, and commands run elsewhere
python=${TRY_PYTHON:-$("$root/.venv/bin/python" -c 'import sys; print(sys._base_executable)')}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HOME=$work/home XDG_CACHE_HOME=$work/cache XDG_STATE_HOME=$work/state UV_LINK_MODE=${UV_LINK_MODE:-hardlink}
export UV_CACHE_DIR=${UV_CACHE_DIR:-$("$uv" cache dir)} NO_COLOR=1
unset PYTHONPATH NUMBA_CACHE_DIR VIRTUAL_ENV PYTHONDONTWRITEBYTECODE
mkdir -p "$HOME"

"$uv" build --quiet --wheel -o "$work/dist" "$root"
"$uv" build --quiet --wheel -o "$work/dist" "$root/lab"
wheel=$(ls "$work"/dist/evac-[0-9]*.whl)
# As uv.lock pins them, so that a new release of somebody else does not break the check of this one.
"$uv" export --quiet --frozen --no-default-groups --no-emit-workspace --all-extras --no-hashes -o "$work/pins.txt"

"$python" - "$wheel" "$root/src" <<'PYTHON'
import pathlib, sys, zipfile
packed, source = set(zipfile.ZipFile(sys.argv[1]).namelist()), pathlib.Path(sys.argv[2])
files = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
if missing := sorted(files - packed):
    sys.exit(f"the wheel lacks {', '.join(missing)}")
data = [name for name in files if not name.endswith(".py")]
print(f"{len(files)} files in the wheel, {len(data)} of them templates, styles, SQL and other data")
PYTHON

"$uv" venv --quiet --python "$python" "$work/environment"
evac=$work/environment/bin/evac
# installed NAME WHAT: the environment with the wheel, or with more of its extras; and what it weighs.
installed() {
    "$uv" pip install --quiet --python "$work/environment/bin/python" --find-links "$work/dist" -c "$work/pins.txt" "$2"
    echo "$1: $(du -sm "$work/environment" | cut -f 1) MB"
}

# ok WHAT...: the command ends with 0. fails CODE WORDS WHAT...: it ends with that code and says these words.
ok() {
    if ! "$evac" "$@" >out 2>err </dev/null; then
        echo "evac $* failed:" && tail -n 20 out err && exit 1
    fi
}
fails() {
    local code=0 expected=$1 words=$2
    shift 2
    "$evac" "$@" >out 2>err </dev/null || code=$?
    if [ "$code" -ne "$expected" ] || ! grep -qF -- "$words" err; then
        echo "evac $* ended with $code, not $expected and '$words':" && tail -n 20 out err && exit 1
    fi
}
# timed LIMIT WHAT...: as ok; prints how long it took, and fails above LIMIT seconds of processor time.
timed() {
    local limit=$1 before after spent
    shift
    before=$(children)
    ok "$@"
    after=$(children)
    spent=$((after - before))
    echo "  evac $1: $((spent / 100)).$(printf %02d $((spent % 100))) s of processor time"
    if [ "$spent" -gt $((limit * 100)) ]; then echo "  that is more than $limit s" && exit 1; fi
}
# Processor time of the children that ended, in hundredths of a second.
children() { awk '{print $16 + $17}' "/proc/$$/stat"; }

# answers PATH: the program in the background prints its address, answers it, and ends when it is asked to.
answers() {
    local pid=$1 url=""
    for _ in $(seq 300); do
        url=$(grep -ohE 'http://127\.0\.0\.1:[0-9]+' out err | head -n 1 || true)
        if [ -n "$url" ] && "$python" -c "import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=5)" "$url$2" 2>/dev/null; then
            echo "  $3: $url$2 answers"
            kill -INT "$pid"
            for _ in $(seq 200); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.1; done
            echo "$3 does not end" && kill -KILL "$pid" && exit 1
        fi
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.2
    done
    echo "$3 does not answer:" && tail -n 20 out err && kill -KILL "$pid" 2>/dev/null
    exit 1
}

# The commands of all groups: each begins with a line such as "Before a loss:".
commands() { "$evac" --help | awk '/^[A-Z][a-z ]*:$/ {on = !/^Options/; next} on && /^  [a-z]/ {print $1}'; }

files() {
    mkdir -p "$work/tried-$1/shop" "$work/tried-$1/manifests" && cd "$work/tried-$1"
    awk '/^```yaml/ {on = 1; next} /^```/ {if (on) exit} on' "$root/docs/tutorials/first-audit.md" >shop/estate.yaml
    printf 'Hostname;Data Center;Rack;Role;vCPUs;RAM (GiB)\nweb-1;fra;r1;shop;32;128\nweb-2;muc;r1;shop;32;128\n' >hosts.csv
    printf 'apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 2, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: web, image: web:1, resources: {requests: {cpu: 1, memory: 1Gi}}}]}}}\n' >manifests/web.yaml
    printf 'people:\n  kim: {role: approver, password: "file:/etc/evac/kim"}\n' >access.yaml
    printf 'channels:\n  chat: {apprise: "env:EVAC_CHAT", least: error}\n' >notices.yaml
    printf 'services:\n  web: {image: "web:1", deploy: {replicas: 2, resources: {reservations: {cpus: "1", memory: 1G}}}}\n' >compose.yaml
    port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    printf 'site = "north"\nhost = "127.0.0.1"\nport = %s\nstate = "agent"\nsecret = "env:EVAC_AGENT"\n' "$port" >agent.toml
}

# What needs no extra, and works the same with all of them; WHICH commands show their help.
without_extras() {
    files "$1"
    ok --version
    export -f ok && export evac
    commands | grep -wE "$2" | xargs -P 2 -I @ bash -c 'mkdir -p help-@ && cd help-@ && ok @ --help' || exit 1
    ok check shop
    timed 10 audit shop --fail-on never
    timed 20 plan shop --lose north -o plan.json --report plan.html
    ok verify plan.json shop
    timed 20 simulate plan.json shop --trials 200
    if "$work/environment/bin/python" -c 'import sys, pathlib; sys.exit(any(pathlib.Path(sys.argv[1]).rglob("*.nbi")))' "$work"; then :; else
        echo "an estate of two services has compiled kernels" && exit 1
    fi
    ok example pangyo --servers 1000 -o pangyo
    ok check pangyo
    ok audit pangyo --lose pangyo --fail-on never --output json
    ok import csv hosts.csv -o from-csv
    ok import kubernetes manifests -o from-kubernetes
    ok import compose compose.yaml -o from-compose
    ok schema
    ok observe shop
    "$evac" doctor shop >out 2>err </dev/null || [ $? -eq 3 ] || { cat err && exit 1; }
    ok key approver.pem
    ok access check access.yaml
    ok access token ci --role viewer
    ok bundle shop -o shop.bundle
    ok bundle verify shop.bundle
    ok bundle show shop.bundle
    ok apply plan.json shop --store sqlite:runs.sqlite
    ok run list --store sqlite:runs.sqlite
    ok status --store sqlite:runs.sqlite
    ok drawer list --store sqlite:runs.sqlite
    ok what-if north --estate shop
    ok hold --release --reason tried --store sqlite:runs.sqlite
    ok incident runbook plan.json --estate shop -o runbook.md
    EVAC_AGENT=0123456789abcdef0123456789abcdef "$evac" agent agent.toml >out 2>err </dev/null &
    answers $! /v1/health "evac agent"
}

installed base evac
without_extras base "$(commands | grep -vx lab | paste -sd "|")"
fails 2 "evac serve needs extra packages: pip install 'evac[serve]' [extra-serve]" serve --demo
fails 2 "pip install 'evac[notices]' [extra-notices]" notices check notices.yaml
fails 2 "pip install 'evac[bundle]' [extra-bundle]" bundle shop -o shared.bundle --share 2/3 --shares-to .
fails 2 "evac lab needs extra packages: pip install 'evac[lab]' [extra-lab]" lab

installed serve 'evac[serve]'
files serve
"$evac" serve --demo --port 0 >out 2>err </dev/null &
answers $! / "evac serve --demo"

installed all 'evac[all,lab]'
without_extras all "lab|serve|notices|bundle"
ok notices check notices.yaml
"$evac" lab doctor >out 2>err </dev/null || true
if grep -qi internal err; then cat err && exit 1; fi
echo "every command works from the wheel"
