#!/usr/bin/env bash
# Builds the daemon's image:  build.sh TAG   (PYTHON=… for a Python with pip, SERVER=… for another model server's image)
#
# It is made from the model server's image, deployctl/model-server:latest, which is built first unless SERVER names one
# that is there. Wheels are downloaded here, as constraints.txt pins them, and installed inside without a package index.
# With CONTEXT=DIRECTORY the directory is filled with what the build needs, and nothing is built.
set -euo pipefail
tag=${1:?usage: build.sh TAG}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}
if [ -n "${CONTEXT:-}" ]; then
  context=$CONTEXT
  architecture=${ARCHITECTURE:-amd64}
else
  context=$(mktemp -d "${TMPDIR:-/tmp}/deployctl-daemon.XXXXXX")
  trap 'rm -rf "$context"' EXIT
  architecture=${ARCHITECTURE:-$(docker version --format '{{.Server.Arch}}')}
  [ -n "${SERVER:-}" ] || "$root/deploy/model-server/build.sh" deployctl/model-server:latest
fi
case $architecture in
  amd64) machine=x86_64 ;;
  arm64) machine=aarch64 ;;
  *) echo "no wheels for $architecture" >&2; exit 1 ;;
esac
# NumPy, gRPC and the HTTP server are in the model server's image.
requirements=(typer sqlalchemy alembic starlette watchdog boto3 docker 'psycopg[binary]')
wheels="$root/build/daemon-wheels-$(cat "$root/constraints.txt" - <<<"${requirements[*]} $machine" | sha256sum | cut -c1-12)"
mkdir -p "$wheels" "$context/package" "$context/wheels"
if [ ! -e "$wheels/complete" ]; then
  # For the Python of Debian 12, whatever this machine's is.
  "$python" -m pip download --quiet --disable-pip-version-check --dest "$wheels" --only-binary=:all: \
    --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none \
    --platform "manylinux_2_28_$machine" --platform "manylinux_2_27_$machine" --platform "manylinux_2_17_$machine" \
    --platform "manylinux2014_$machine" --platform "manylinux_2_5_$machine" --platform any \
    --constraint "$root/constraints.txt" "${requirements[@]}"
  touch "$wheels/complete"
fi
cp "$wheels"/*.whl "$context/wheels/"
cp "$here"/{Dockerfile,deployctl,entrypoint.sh,healthcheck.py} "$context/"
cp -r "$root/deployctl" "$context/package/deployctl"
cp -r "$root/migrations" "$context/package/deployctl/_migrations"
find "$context/package" -name __pycache__ -prune -exec rm -r {} +
chmod 755 "$context"/{deployctl,entrypoint.sh}
[ -z "${CONTEXT:-}" ] || exit 0
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$root/deployctl/__init__.py")
# buildx may be absent, and the Dockerfile needs nothing of it.
DOCKER_BUILDKIT=0 docker build --quiet --platform "linux/$architecture" --build-arg "VERSION=$version" \
  --build-arg "SERVER=${SERVER:-deployctl/model-server:latest}" --tag "$tag" "$context"
