#!/bin/sh
# Any command of deployctl; before the daemon, the database gets the schema that this version needs.
set -eu
if [ "${1:-}" = daemon ]; then
  deployctl db upgrade >&2
fi
exec deployctl "$@"
