#!/bin/bash
# Either superblock slot may be damaged: the other one mounts, with everything there. With both damaged
# the mount is refused with a clear message and the image is not touched; fsck.blobfs writes them from
# their copy, even when all of the first megabyte is lost, and everything is there.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_blobfs
make_filesystem disk 256M
mount_filesystem disk
cp -a "$BLOBFS_SOURCE/driver" "$(mount_of disk)/driver"
manifest "$(mount_of disk)/driver" >"$WORK/expected"
unmount_filesystem disk
cp --sparse=always "$(image_of disk)" "$WORK/sound.img"
damage() { # offset of the slot
    head -c 4096 /dev/urandom | dd of="$(image_of disk)" bs=4096 seek=$(($1 / 4096)) conv=notrunc status=none
}
for slot in 4096 65536; do
    cp --sparse=always "$WORK/sound.img" "$(image_of disk)"
    damage $slot
    mount_filesystem disk
    manifest "$(mount_of disk)/driver" >"$WORK/actual"
    same_manifest "$WORK/expected" "$WORK/actual" "with the slot at byte $slot damaged the tree differs"
    echo more >"$(mount_of disk)/more"
    remount_filesystem disk
    equal "$(<"$(mount_of disk)/more")" more "a file written after the damage"
    unmount_filesystem disk
done
# One bit is enough to be noticed.
cp --sparse=always "$WORK/sound.img" "$(image_of disk)"
printf '\377' | dd of="$(image_of disk)" bs=1 seek=$((4096 + 70)) conv=notrunc status=none
mount_filesystem disk
manifest "$(mount_of disk)/driver" >"$WORK/actual"
same_manifest "$WORK/expected" "$WORK/actual" "with a bit flipped in a slot the tree differs"
unmount_filesystem disk

cp --sparse=always "$WORK/sound.img" "$(image_of disk)"
damage 4096
damage 65536
before=$(b2sum <"$(image_of disk)")
refused "superblock|damaged|not a blobfs" "$BLOBFS_FUSE" "$(image_of disk)" "$(mount_of disk)"
! mountpoint -q "$(mount_of disk)" || fail "a filesystem without superblock is mounted"
equal "$(b2sum <"$(image_of disk)")" "$before" "the image after a refused mount"
dd if=/dev/zero of="$(image_of disk)" bs=1M count=1 conv=notrunc status=none
refused "not a blobfs" "$BLOBFS_FUSE" "$(image_of disk)" "$(mount_of disk)"
status=0
"$BLOBFS_FSCK" -y "$(image_of disk)" >"$WORK/fsck.txt" 2>&1 || status=$?
equal "$status" 1 "fsck.blobfs -y of an image without superblocks: $(<"$WORK/fsck.txt")"
mount_filesystem disk
manifest "$(mount_of disk)/driver" >"$WORK/actual"
same_manifest "$WORK/expected" "$WORK/actual" "after the superblocks came back the tree differs"
unmount_filesystem disk
no_sanitizer_reports
