#!/bin/bash
# mmap (shared, private), O_DIRECT, O_SYNC, O_DSYNC, O_APPEND and random writes with truncations: what
# one way wrote another reads, and all of it is there after a remount.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
make_filesystem disk 512M
mount_filesystem disk
folder=$(mount_of disk)
"$BLOBFS_PROBE" mmap "$folder/mmap"
"$BLOBFS_PROBE" direct "$folder/direct"
"$BLOBFS_PROBE" open-flags "$folder/flags"
seed=${BLOBFS_SEED:-$RANDOM}
say "random writes with seeds $seed to $((seed + 3))"
for i in 0 1 2 3; do "$BLOBFS_PROBE" random-writes "$folder/random$i" $((seed + i)); done
(cd "$folder" && b2sum ./*) >"$WORK/sums"
remount_filesystem disk
(cd "$folder" && b2sum --quiet -c "$WORK/sums") || fail "files differ after the remount"
unmount_filesystem disk
