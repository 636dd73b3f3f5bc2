#!/bin/sh
# PostgreSQL on every address of both families, without passwords; its database is made at the first start.
# Arguments go to the server.
set -eu
if [ ! -d "$PGDATA" ]; then
  # Made beside it and moved: a database that was killed half-made is not taken for a whole one.
  rm -rf "$PGDATA.new"
  initdb --pgdata "$PGDATA.new" --auth trust --username postgres --encoding UTF8 --locale C.UTF-8 --no-sync
  echo 'host all all all trust' >>"$PGDATA.new/pg_hba.conf"
  mv "$PGDATA.new" "$PGDATA"
fi
# No JIT: its library (LLVM, 100 MB) is not in the image.
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp -c jit=off "$@"
