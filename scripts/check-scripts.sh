#!/usr/bin/env bash
# Our shell scripts parse, stop at the first error, and please shellcheck where it is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t scripts < <(printf '%s\n' .ci/run scripts/*.sh)
for script in "${scripts[@]}"; do
  bash -n "$script"
  [[ $script == scripts/env.sh ]] || grep -q '^set -euo pipefail$' "$script" || {
    echo "$script: no 'set -euo pipefail'" >&2
    exit 1
  }
done
if command -v shellcheck >/dev/null; then
  shellcheck -x "${scripts[@]}"
fi
