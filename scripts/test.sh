#!/usr/bin/env bash
# Every test, then docs/acceptance.md against what ran: first those that need no cluster, then those that start their own,
# then those that share one. What fails does not keep the others from running.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh

mkdir -p "$(dirname "$SIGNET_TEST_RESULTS")"
: >"$SIGNET_TEST_RESULTS"
export SIGNET_CLUSTER=${SIGNET_CLUSTER:-test} # beside the one that a developer may have running
cluster=$SIGNET_BIN_DIR/signet-cluster
status=0

SIGNET_TESTS_LATER=lifecycle,kubernetes,mesh,disruption \
  scripts/stage.sh tests scripts/cargo-test.sh --workspace || status=$?
scripts/stage.sh lifecycle scripts/cargo-test.sh --workspace --test lifecycle || status=$?

# Two clusters: a story of the mesh waits more than it works. Each story there, and each of `disruption`, has its cluster to itself, so
# one at a time, and the wait for that would not count as its own. Who starts whole machines anew (cold, disruption) comes last on
# either, when the stories that may lose no request are over.
second=$SIGNET_CLUSTER-2
busy=(acme::hostile:: acme::killed:: edge:: hosts:: outage:: restarts:: rotation:: webhook::)
alone() { # STAGE ARGUMENTS...: of cargo-test.sh
  SIGNET_TEST_JOBS=1 scripts/stage.sh "$1" scripts/cargo-test.sh --workspace "${@:2}"
}
on_first() {
  local status=0
  scripts/stage.sh cluster-up "$cluster" up || return
  scripts/stage.sh kubernetes scripts/cargo-test.sh --workspace --test kubernetes || status=$?
  alone mesh --test mesh -- "${busy[@]}" || status=$?
  alone cold --test mesh -- cold:: || status=$?
  return "$status"
}
on_second() {
  export SIGNET_CLUSTER=$second
  local status=0 others=()
  scripts/stage.sh cluster-up-2 "$cluster" up || return
  for story in "${busy[@]}" cold::; do others+=(--skip "$story"); done
  alone mesh-2 --test mesh -- "${others[@]}" || status=$?
  alone disruption --test disruption || status=$?
  return "$status"
}
trap '"$cluster" down; SIGNET_CLUSTER=$second "$cluster" down' EXIT
on_second >"$SIGNET_TEST_RESULTS.second" 2>&1 &
on_first || status=$?
wait "$!" || status=$?
cat "$SIGNET_TEST_RESULTS.second"
"$SIGNET_BIN_DIR/acceptance" check "$SIGNET_TEST_RESULTS" docs || status=$?
exit "$status"
