#!/usr/bin/env bash
# The walls of the house (docs/design.md section 2, CONTRIBUTING.md): who may link whom, and how large a file may get.
# Every broken wall is named; then it fails.
set -euo pipefail
cd "$(dirname "$0")/.."

broken=0
break_wall() {
  echo "wall: $*" >&2
  broken=1
}

# links CRATE: the names of everything that ends up in its binary or library.
links() { cargo tree --locked -p "$1" -e normal --prefix none --format '{p}' | awk '{ print $1 }' | sort -u; }

# must_not CRATE FORBIDDEN...: a crate must not link these.
must_not() {
  local crate=$1 linked name
  shift
  linked=$(links "$crate")
  for name in "$@"; do
    grep -qxF "$name" <<<"$linked" && break_wall "$crate links $name (cargo tree -p $crate -i $name)"
  done
  return 0
}

http=(hyper http h2 axum tower)
protobuf=(tonic prost prost-types signet-api)
kubernetes=(kube kube-client k8s-openapi)
must_not signet-core "${http[@]}" "${protobuf[@]}" "${kubernetes[@]}" signet-link signet-http signet-ca signet-controller signet-injector signet-proxy signet-gateway signet-cli
must_not signet-api "${kubernetes[@]}" signet-core rustls tokio-rustls
must_not signet-link "${kubernetes[@]}" signet-ca signet-controller signet-injector signet-proxy signet-cli
must_not signet-lease "${protobuf[@]}" signet-link signet-http signet-ca signet-controller signet-injector signet-proxy signet-cli
must_not signet-edge-ca "${http[@]}" "${protobuf[@]}" "${kubernetes[@]}" signet-link signet-http signet-ca signet-controller signet-injector signet-proxy signet-cli
must_not signet-acme axum tower tonic "${protobuf[@]}" "${kubernetes[@]}" signet-link signet-http signet-ca signet-edge-ca signet-controller signet-injector signet-proxy signet-gateway signet-cli # its store is handed in
must_not signet-ca signet-acme signet-controller signet-proxy signet-cli
must_not signet-controller signet-ca signet-proxy signet-cli
must_not signet-injector kube kube-client signet-acme signet-ca signet-controller signet-proxy signet-cli # it asks the API server nothing
must_not signet-http "${kubernetes[@]}" signet-acme signet-link signet-ca signet-controller signet-injector signet-proxy signet-cli
must_not signet-proxy "${kubernetes[@]}" signet-acme signet-ca signet-controller signet-injector signet-cli # no data plane talks to Kubernetes
must_not signet-gateway "${kubernetes[@]}" signet-acme signet-ca signet-controller signet-injector signet-proxy signet-cli # nor does the other one
must_not signet-cli signet-tests signet-bench signet-cluster
# It measures what ships, as processes.
must_not signet-bench signet-api signet-link signet-ca signet-controller signet-proxy signet-cli signet-tests signet-cluster
must_not signet-cluster signet-api signet-link signet-ca signet-controller signet-proxy signet-cli signet-tests

# Nobody, through anybody, test code included.
everything=$(cargo tree --locked --workspace -e normal,build,dev --prefix none --format '{p}' | awk '{ print $1 }' | sort -u)
for banned in ring openssl openssl-sys native-tls chrono serde_yaml; do
  grep -qxF "$banned" <<<"$everything" && break_wall "$banned is linked (cargo tree --workspace -i $banned)"
done

for manifest in */Cargo.toml tests/bench/Cargo.toml tests/cluster/Cargo.toml; do
  # Versions live in one table: the members' own say `workspace = true` and at most add features.
  awk '
    /^\[/ { inside = $0 ~ /dependencies\]$/; next }
    inside && NF && !/^#/ && !/workspace *= *true/ { print FILENAME ": " $0; bad = 1 }
    END { exit bad }
  ' "$manifest" >&2 || break_wall "$manifest has a dependency of its own; put it into the workspace table"
  # A mutant is built by name only, and so is what only the bench measures.
  if grep -E '^default *=.*(mutant|bench)-' "$manifest" >&2; then break_wall "$manifest turns a mutant on by default"; fi
  if grep -E '(features *=|"signet-[a-z]+/).*(mutant|bench)-' "$manifest" | grep -Eqv '^(mutant|bench)-'; then
    break_wall "$manifest turns a mutant on for a dependency"
  fi
done
if cargo tree --locked --workspace -e normal,build,dev,features --prefix none | grep -Eq 'feature "(mutant|bench)-'; then
  break_wall "a mutant is on in the default feature set (cargo tree --workspace -e features | grep mutant)"
fi

# A file over 500 lines is two files (docs/design.md section 2). No exceptions so far.
while IFS= read -r file; do
  lines=$(wc -l <"$file")
  ((lines <= 500)) || break_wall "$file has $lines lines; 500 is the limit"
done < <(git ls-files --cached --others --exclude-standard -- '*.rs' '*.sh')

exit "$broken"
