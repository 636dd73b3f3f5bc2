#!/usr/bin/env bash
# stage.sh NAME COMMAND...: runs a command, says how long it took, and keeps it for the summary of .ci/run.
set -euo pipefail

name=$1
shift
stages="${SIGNET_STAGES:-$HOME/.cache/signet/stages.txt}"
mkdir -p "$(dirname "$stages")"
echo "== $name"
begun=$SECONDS
status=0
"$@" || status=$?
took=$((SECONDS - begun))
if ((status == 0)); then word=ok; else word="FAILED (exit $status)"; fi
printf '%-12s %5d  %s\n' "$name" "$took" "$word" >>"$stages"
echo "== $name: $word in $took s"
exit "$status"
