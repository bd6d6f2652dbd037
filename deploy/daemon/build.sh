#!/usr/bin/env bash
# Builds the daemon's image:  build.sh TAG   (PYTHON=… for a Python with pip, BASE=… for another base image)
#
# Wheels are downloaded here, as constraints.txt pins them, and installed inside without a package index. The base image
# must be there or pullable; deploy/model-server/build.sh can make one. With CONTEXT=DIRECTORY the directory is filled
# with what the build needs, and nothing is built.
set -euo pipefail
tag=${1:?usage: build.sh TAG}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}
base=${BASE:-debian:bookworm-slim}
if [ -n "${CONTEXT:-}" ]; then
  context=$CONTEXT
  architecture=${ARCHITECTURE:-amd64}
else
  context=$(mktemp -d "${TMPDIR:-/tmp}/deployctl-daemon.XXXXXX")
  trap 'rm -rf "$context"' EXIT
  architecture=$(docker version --format '{{.Server.Arch}}')
fi
case $architecture in
  amd64) machine=x86_64 tensorflow=tensorflow-cpu ;;
  arm64) machine=aarch64 tensorflow=tensorflow ;;
  *) echo "no TensorFlow wheel for $architecture" >&2; exit 1 ;;
esac
pinned=$(sed -n 's/^tensorflow[_-]cpu==//p' "$root/constraints.txt")
requirements=(typer sqlalchemy alembic grpcio protobuf numpy starlette watchdog boto3 docker 'psycopg[binary]' uvicorn
  httptools uvloop orjson)
wheels="$root/build/daemon-wheels-$(cat "$root/constraints.txt" - <<<"${requirements[*]} $machine" | sha256sum | cut -c1-12)"
download() {
  # The Python of Debian 12, whatever this machine's is.
  "$python" -m pip download --quiet --disable-pip-version-check --dest "$wheels" --only-binary=:all: \
    --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none \
    --platform "manylinux_2_28_$machine" --platform "manylinux_2_27_$machine" --platform "manylinux_2_17_$machine" \
    --platform "manylinux2014_$machine" --platform "manylinux_2_5_$machine" --platform any \
    --constraint "$root/constraints.txt" "$@"
}
mkdir -p "$wheels" "$context/package"
if [ ! -e "$wheels/complete" ]; then
  download "${requirements[@]}"
  download --no-deps "$tensorflow==$pinned"
  touch "$wheels/complete"
fi
mkdir -p "$context/wheels"
cp "$wheels"/*.whl "$context/wheels/"
cp "$here"/{Dockerfile,deployctl,entrypoint.sh,healthcheck.py} "$root/deploy/model-server/install.py" "$context/"
cp -r "$root/deployctl" "$context/package/deployctl"
cp -r "$root/migrations" "$context/package/deployctl/_migrations"
find "$context/package" -name __pycache__ -prune -exec rm -r {} +
chmod 755 "$context"/{deployctl,entrypoint.sh}
[ -z "${CONTEXT:-}" ] || exit 0
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$root/deployctl/__init__.py")
# buildx may be absent, and the Dockerfile needs nothing of it.
DOCKER_BUILDKIT=0 docker build --quiet --build-arg "BASE=$base" --build-arg "VERSION=$version" --tag "$tag" "$context"
