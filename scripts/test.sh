#!/usr/bin/env bash
# cargo test --workspace, each test in a process of its own with its duration kept; then docs/acceptance.md against what
# ran. Arguments go to cargo test, e.g. scripts/test.sh -p signet-tests --test demo; the page is only checked without any.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh

mkdir -p "$(dirname "$SIGNET_TEST_RESULTS")"
: >"$SIGNET_TEST_RESULTS"
runner_variable=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$SIGNET_TARGET")_RUNNER

selection=("$@")
((${#selection[@]})) || selection=(--workspace)
status=0
env "$runner_variable=$SIGNET_BIN_DIR/timed-tests" \
  cargo test --locked --no-fail-fast "${selection[@]}" || status=$?
if (($# == 0)); then
  "$SIGNET_BIN_DIR/acceptance" check "$SIGNET_TEST_RESULTS" docs || status=$?
fi
exit "$status"
