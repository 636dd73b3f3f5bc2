#!/usr/bin/env bash
# Every fuzz target for SECONDS_EACH (60) seconds, JOBS (1) at a time, or those named as arguments. Crashes stay in
# tests/fuzz/artifacts. All targets for 600 seconds or more leave docs/soak/5.6.json.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh

rustup toolchain list | grep -q '^nightly' || { echo "fuzzing needs a nightly: rustup toolchain install nightly" >&2; exit 1; }
if [[ ! -x $SIGNET_TOOLS/bin/cargo-fuzz ]]; then
  install_tool cargo-fuzz@0.13.2
  rm -rf "$SIGNET_TOOLS/build"
fi
seconds=${SECONDS_EACH:-60}
targets=("$@")
((${#targets[@]})) || mapfile -t targets < <(sed -n 's/^name = "\([a-z_]*\)"$/\1/p' tests/fuzz/Cargo.toml)
export CARGO_TARGET_DIR="$HOME/.cache/signet/fuzz" PATH="$SIGNET_TOOLS/bin:$PATH"
commit=$(git rev-parse HEAD)
begun=$(date -u +%FT%TZ)
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
(cd tests && cargo +nightly fuzz build)

fuzz() {
  echo "== fuzz $1, $seconds s"
  (cd tests && cargo +nightly fuzz run "$1" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1) >"$logs/$1" 2>&1 || {
    tail -n 40 "$logs/$1" >&2
    echo "== fuzz $1: a finding, see above and tests/fuzz/artifacts/$1" >&2
    return 1
  }
  echo "== fuzz $1: $(executions "$1") executions, no finding"
}

executions() {
  sed -n 's/^stat::number_of_executed_units: *//p' "$logs/$1"
}

status=0
running=0
for target in "${targets[@]}"; do
  if ((running == ${JOBS:-1})); then
    wait -n || status=1
    ((running--)) || true
  fi
  fuzz "$target" &
  ((++running))
done
while ((running > 0)); do
  wait -n || status=1
  ((running--)) || true
done

if (($# == 0 && seconds >= 600)); then
  {
    printf '{\n  "line": "5.6",\n  "commit": "%s",\n  "begun": "%s",\n  "cores": %d,\n  "held": %s,\n' \
      "$commit" "$begun" "$(nproc)" "$([[ $status == 0 ]] && echo true || echo false)"
    printf '  "numbers": { "secondsEach": %d, "atATime": %d, "executions": {' "$seconds" "${JOBS:-1}"
    comma=''
    for target in "${targets[@]}"; do
      printf '%s\n    "%s": %d' "$comma" "$target" "$(executions "$target")"
      comma=,
    done
    printf '\n  } }\n}\n'
  } >docs/soak/5.6.json
fi
exit "$status"
