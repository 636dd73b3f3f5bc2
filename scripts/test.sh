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

trap '"$cluster" down' EXIT
if scripts/stage.sh cluster-up "$cluster" up; then
  scripts/stage.sh kubernetes scripts/cargo-test.sh --workspace --test kubernetes || status=$?
  # One at a time: each has the cluster to itself, and the wait for that would count as its own.
  SIGNET_TEST_JOBS=1 scripts/stage.sh mesh scripts/cargo-test.sh --workspace --test mesh || status=$?
  SIGNET_TEST_JOBS=1 scripts/stage.sh disruption scripts/cargo-test.sh --workspace --test disruption || status=$?
else
  status=1
fi
"$SIGNET_BIN_DIR/acceptance" check "$SIGNET_TEST_RESULTS" docs || status=$?
exit "$status"
