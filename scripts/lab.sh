#!/bin/bash
# The lab for a newcomer: what is missing is installed, three sites come up, one burns and comes back, the clients
# say how it was, and nothing is left behind - also when something fails or is interrupted on the way.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
evac=.venv/bin/evac
site=${1:-pangyo}

$evac lab doctor --install || exit $?
trap '$evac lab down --quiet' EXIT
trap 'exit 130' INT TERM

$evac lab up || exit $?
echo "Ten seconds of quiet, so that every witness knows every site ..."
sleep 10
$evac lab status
$evac lab burn "$site" --confirm "$site" --reason "make lab" || exit $?
$evac lab restore "$site" --confirm "$site" --reason "make lab" || exit $?
$evac lab status
$evac lab report
