#!/usr/bin/env bash
# Every fuzz target for SECONDS_EACH (60) seconds, or those named as arguments. Crashes stay in tests/fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh

rustup toolchain list | grep -q '^nightly' || { echo "fuzzing needs a nightly: rustup toolchain install nightly" >&2; exit 1; }
if [[ ! -x $SIGNET_TOOLS/bin/cargo-fuzz ]]; then
  install_tool cargo-fuzz@0.13.2
  rm -rf "$SIGNET_TOOLS/build"
fi
cd tests
targets=("$@")
((${#targets[@]})) || mapfile -t targets < <(sed -n 's/^name = "\([a-z_]*\)"$/\1/p' fuzz/Cargo.toml)
export CARGO_TARGET_DIR="$HOME/.cache/signet/fuzz"
for target in "${targets[@]}"; do
  echo "== fuzz $target, ${SECONDS_EACH:-60} s"
  PATH="$SIGNET_TOOLS/bin:$PATH" cargo +nightly fuzz run "$target" -- \
    -max_total_time="${SECONDS_EACH:-60}" -timeout=10 -rss_limit_mb=2048 -print_final_stats=0
done
