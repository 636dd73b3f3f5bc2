#!/usr/bin/env bash
# cargo test with our runner: each test in a process of its own, with its duration kept. Arguments go to cargo test:
# scripts/cargo-test.sh --workspace --test demo NAME. (--workspace always: with -p the dependencies get other features, and
# are built again.)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh

runner_variable=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$SIGNET_TARGET")_RUNNER
env "$runner_variable=$SIGNET_BIN_DIR/timed-tests" cargo test --locked --no-fail-fast "$@"
