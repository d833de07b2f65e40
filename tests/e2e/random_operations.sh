#!/bin/bash
# Random operations: I/O on two files against a copy in memory, and processes that fight for the same
# names; all of it is there after a remount, and the filesystem is sound. BLOBFS_SEED repeats a run,
# BLOBFS_RANDOM_OPERATIONS makes it longer (a million is a good night's run).
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs getfattr
: "${BLOBFS_RANDOM_IO:?run this by ctest}" "${BLOBFS_RANDOM_NAMES:?run this by ctest}"
seed=${BLOBFS_SEED:-$RANDOM}
operations=${BLOBFS_RANDOM_OPERATIONS:-2000}
make_filesystem disk 1G
mount_filesystem disk
folder=$(mount_of disk)
mkdir "$folder/io" "$folder/names"
say "I/O with seed $seed, $operations operations"
"$BLOBFS_RANDOM_IO" "$folder/io" "$seed" "$operations" || fail "random I/O with seed $seed"
if [[ $EUID == 0 ]]; then
    say "names with seed $seed"
    "$BLOBFS_RANDOM_NAMES" "$folder/names" "$seed" 4 $((operations / 2)) ||
        fail "random names with seed $seed"
fi
manifest "$folder" >"$WORK/before"
remount_filesystem disk
manifest "$folder" >"$WORK/after"
same_manifest "$WORK/before" "$WORK/after" "the remount changed something"
unmount_filesystem disk
