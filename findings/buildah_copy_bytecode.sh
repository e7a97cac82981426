#!/usr/bin/env bash
# One would guess: a folder of Python packages with its bytecode, copied into an image by Buildah, is as fast to import
# there as outside, because file times are kept, to the second at worst.
# What happens: `buildah copy` (and COPY in a Containerfile) of Buildah 1.28.2 rounds each file's time to the nearest
# second, while bytecode contains the time of its source cut to the second. So the bytecode of every source that was
# written in the second half of a second is stale in the image. Nothing says so: Python compiles these modules anew in each
# process of each container, and cannot keep the result where the file system is read-only. GNU tar cuts the times, and
# nothing is stale. Bytecode that names its source by hash (`py_compile` under SOURCE_DATE_EPOCH) stays valid.
# Needs root and Buildah (Debian bookworm's).
set -euo pipefail
command -v buildah >/dev/null || { echo "error: buildah: is not installed; apt-get install buildah" >&2; exit 2; }
folder=$(mktemp -d)
export BUILDAH_ISOLATION=chroot
buildah=(buildah --storage-driver vfs --root "$folder/storage" --runroot "$folder/run")
trap '"${buildah[@]}" rm --all >/dev/null; rm -rf "$folder"' EXIT
cd "$folder"

python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check --target early pygments==2.19.2
cp -r early late
cp -r early hashed
find early -name '*.py' -exec touch -d '2026-01-01 12:00:00.250' {} +
find late hashed -name '*.py' -exec touch -d '2026-01-01 12:00:00.750' {} +
venv/bin/python -m compileall -q -f early late
SOURCE_DATE_EPOCH=0 venv/bin/python -m compileall -q -f hashed

compiled() {  # FOLDER: how many of the modules that `import pygments.formatters.html` needs there are compiled anew
    venv/bin/python -B -v -c "import sys; sys.path.insert(0, '$1'); import pygments.formatters.html" 2>&1 \
        | grep -c "^# bytecode is stale for 'pygments" || true
}

container=$("${buildah[@]}" from scratch)
"${buildah[@]}" copy --quiet "$container" . /packages >/dev/null
image=$("${buildah[@]}" mount "$container")/packages
mkdir tar
tar -cf - early late | tar -xf - -C tar
echo "$(buildah --version | cut -d' ' -f1-3), $(venv/bin/python --version), pygments 2.19.2"
outside="$(compiled "$folder/early") $(compiled "$folder/late") $(compiled "$folder/hashed")"
inside="$(compiled "$image/early") $(compiled "$image/late") $(compiled "$image/hashed")"
by_tar="$(compiled "$folder/tar/early") $(compiled "$folder/tar/late")"
echo "modules compiled anew, of sources written .25 s and .75 s after a full second, and .75 s with hashes:"
echo "outside $outside, in the image $inside, through GNU tar $by_tar"
read -r early late hashed <<<"$inside"
if [ "$outside" != "0 0 0" ] || [ "$by_tar" != "0 0" ] || [ "$early" != 0 ] || [ "$late" -lt 5 ] || [ "$hashed" != 0 ]; then
    echo "changed" >&2
    exit 1
fi
echo "as described"
