#!/usr/bin/env bash
# Builds the model server's image:  build.sh TAG   (PYTHON=… for a Python with pip, BASE=… for another base image)
#
# ARCHITECTURE=arm64 on an amd64 machine builds for the other one, whose programs must run here:
# `apt-get install qemu-user-static binfmt-support` lets them.
#
# Wheels are downloaded here and installed inside without a package index. Where the base image can be pulled from no
# registry, one is made with debootstrap (root) and given the name that the Dockerfile asks for.
set -euo pipefail
tag=${1:?usage: build.sh TAG}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}
own=$(docker version --format '{{.Server.Arch}}')
architecture=${ARCHITECTURE:-$own}
case $architecture in
  amd64) machine=x86_64 tensorflow=tensorflow-cpu others=amd64/ ;;
  arm64) machine=aarch64 tensorflow=tensorflow others=arm64v8/ ;;
  *) echo "no TensorFlow wheel for $architecture" >&2; exit 1 ;;
esac
# The engine keeps one architecture under a name; Debian's image has a name of its own for each, too.
[ "$architecture" != "$own" ] || others=
base=${BASE:-${others}debian:bookworm-slim}
context=$(mktemp -d "${TMPDIR:-/tmp}/deployctl-image.XXXXXX")
trap 'rm -rf "$context"' EXIT

build() {
  # buildx may be absent, and no Dockerfile here needs anything of it.
  DOCKER_BUILDKIT=0 docker build --quiet --platform "linux/$architecture" --tag "$@"
}

make_base() {
  local rootfs="$context/rootfs"
  debootstrap --arch="$architecture" --variant=minbase bookworm "$rootfs" >"$context/debootstrap.log" 2>&1 || {
    tail -5 "$context/debootstrap.log" >&2
    return 1
  }
  rm -rf "$rootfs"/var/cache/apt/archives/*.deb
  # Not `docker import`, which takes every image for one of the engine's own architecture.
  mkdir "$context/base"
  tar -C "$rootfs" -cf "$context/base/rootfs.tar" .
  printf 'FROM scratch\nADD rootfs.tar /\nCMD ["bash"]\n' >"$context/base/Dockerfile"
  build "$base" "$context/base" >/dev/null
  rm -rf "$rootfs" "$context/base"
}

if ! docker image inspect "$base" >/dev/null 2>&1 \
  && ! timeout 120 docker pull --quiet --platform "linux/$architecture" "$base" 2>"$context/pull.log"; then
  cat "$context/pull.log" >&2
  echo "making $base with debootstrap" >&2
  make_base
fi

pinned=$(sed -n 's/^tensorflow[_-]cpu==//p' "$root/constraints.txt")
# Kept from build to build: they are most of the image, and the build's cache goes by their content.
requirements=("$tensorflow==$pinned" numpy grpcio protobuf uvicorn httptools uvloop orjson click h11 typing_extensions)
wheels="$root/build/wheels-$(cat "$root/constraints.txt" - <<<"${requirements[*]} $machine" | sha256sum | cut -c1-12)"
mkdir -p "$wheels" "$context/package/deployctl"
# The Python of Debian 12, whatever this machine's is.
"$python" -m pip download --quiet --disable-pip-version-check --dest "$wheels" --no-deps --only-binary=:all: \
  --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none \
  --platform "manylinux_2_28_$machine" --platform "manylinux_2_27_$machine" --platform "manylinux_2_17_$machine" \
  --platform "manylinux2014_$machine" --platform "manylinux_2_5_$machine" --platform any \
  --constraint "$root/constraints.txt" \
  "${requirements[@]}"
cp -r "$wheels" "$context/wheels"

cd "$root"
cp "$here"/{Dockerfile,install.py,tensorflow_model_server,tf_serving_entrypoint.sh} "$context/"
cp deployctl/{__init__,errors}.py "$context/package/deployctl/"
cp -r deployctl/{domain,modelserver,protos} "$context/package/deployctl/"
find "$context/package" -name __pycache__ -prune -exec rm -r {} +
chmod 755 "$context"/{tensorflow_model_server,tf_serving_entrypoint.sh}
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' deployctl/__init__.py)
build "$tag" --build-arg "BASE=$base" --build-arg "VERSION=$version" "$context"
