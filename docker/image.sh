#!/usr/bin/env bash
# Makes the image without a container engine, and runs it: `docker/image.sh [BUILD ARGUMENTS]`.
#
# Needs root, buildah and debootstrap (Debian: apt-get install buildah debootstrap crun).  The
# base is bootstrapped, as no registry may be in reach; what pip is configured with on this
# machine holds in the build, too, and stays out of the image.  Everything lies in
# $IMAGE_FOLDER (default: build/image).
set -euo pipefail

cd "$(dirname "$0")/.."
project=$PWD
for program in buildah debootstrap; do
    if ! command -v "$program" >/dev/null || [ "$(id -u)" != 0 ]; then
        echo "docker/image.sh: needs root and $program; with an engine: docker/README.md" >&2
        exit 3
    fi
done
folder=$(mkdir -p "${IMAGE_FOLDER:-build/image}" && cd "${IMAGE_FOLDER:-build/image}" && pwd)
name=${IMAGE:-localhost/lsengine:cpu}
cd "$folder"
buildah() { command buildah --root "$folder/store" --runroot "$folder/run" --storage-driver vfs "$@"; }

if ! buildah inspect localhost/debian:12 >/dev/null 2>&1; then
    if [ ! -e rootfs/whole ]; then
        rm -rf rootfs
        debootstrap --variant=minbase bookworm rootfs >debootstrap.log
        chroot rootfs apt-get clean
        touch rootfs/whole
    fi
    base=$(buildah from scratch)
    cp -a rootfs/. "$(buildah mount "$base")"
    buildah umount "$base" >/dev/null
    buildah commit -q --rm "$base" localhost/debian:12 >/dev/null
fi

# pip as it is here: its settings in a file, the certificates and folders they name mounted.
mkdir -p -m 700 pip
settings=$(python3 -m pip config list | sed -E "s/^[^.]*\.([a-z-]+)='(.*)'$/\1 = \2/" | sort -u -t= -k1,1)
certificates=$(sed -n 's/^cert = //p' <<<"$settings")
{
    echo "[global]"
    sed '/^cert /d' <<<"$settings"
    if [ -n "$certificates" ]; then echo "cert = /etc/pip-certificates"; fi
} >pip/pip.conf
flags=(--volume "$folder/pip/pip.conf:/etc/pip.conf:ro")
if [ -n "$certificates" ]; then
    flags+=(--volume "$(readlink -f "$certificates"):/etc/pip-certificates:ro")
fi
places=$(sed -nE 's/^(find-links|index-url|extra-index-url) = //p' pip/pip.conf)
for place in $places; do
    place=${place#file://} place=${place%/simple} # an index's files lie beside its pages
    if [[ $place = /* ]]; then flags+=(--volume "$place:$place:ro"); fi
done

buildah bud --isolation chroot --build-arg BASE=localhost/debian:12 "${flags[@]}" "$@" \
    -t "$name" -f "$project/docker/Dockerfile" "$project"

# One container for all trials: without an engine's layers, each would be a whole copy.
container=$(buildah from "$name")
trap 'buildah rm "$container" >/dev/null' EXIT
try() { # try COMMAND...: as the image's user
    echo "+ $*"
    buildah run --isolation chroot --volume "$project/jobs/demo.yaml:/jobs/jobs/demo.yaml:ro" \
        "$container" -- "$@"
}
try id
try lsengine doctor --output /jobs
try mpirun -n 3 lsengine doctor --output /jobs
try lsengine train jobs/demo.yaml
try mpirun -n 3 lsengine eval jobs/demo.yaml
try lsengine render surfaces/demo.h5
echo "$name: $(du -sm "$(buildah mount "$container")" | cut -f 1) MB"
