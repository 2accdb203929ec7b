#!/bin/sh
# Runs the command it is given. `serve-node` is a head with the fleet of DEPLOY_FILE deployed on it.
set -eu

if [ "${1:-}" != "serve-node" ]; then
    exec "$@"
fi

file="${DEPLOY_FILE:-deploy/serve.yaml}"
fleetcast deploy check "$file"
if [ -z "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" ]; then
    ray get-auth-token --generate > /dev/null
fi
ray start --head --port=6379 --dashboard-host=127.0.0.1 --disable-usage-stats
serve deploy "$file"

# Ray's processes run beside this one. At a stop Serve lets requests under way finish; the actors
# need no goodbye, for what they acknowledged is on disk.
trap 'serve shutdown --yes; ray stop; exit 0' TERM INT
while ray status > /dev/null 2>&1; do
    sleep 10 &
    wait $!
done
echo "entrypoint: Ray has ended" >&2
exit 1
