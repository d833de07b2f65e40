#!/bin/bash
# A mounted device is refused to a second daemon and to mkfs, with --force too; nobody notices on the
# mount. The lock is gone when the mount is.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_blobfs
make_filesystem disk 256M
mount_filesystem disk
image=$(image_of disk)
mkdir "$WORK/second"
echo precious >"$(mount_of disk)/file"
"$BLOBFS_PROBE" locked "$image"
refused "in use|locked|mounted" "$BLOBFS_FUSE" "$image" "$WORK/second"
! mountpoint -q "$WORK/second" || fail "the device is mounted twice"
refused "mounted|locked|in use" "$BLOBFS_MKFS" "$image"
refused "mounted|locked|in use" "$BLOBFS_MKFS" --force "$image"
refused "mounted|locked|in use" "$BLOBFS_MKFS" --force --size 1G "$image"
equal "$(stat -c %s "$image")" $((256 * 1048576)) "size of the image"
ln "$image" "$WORK/other-name.img"
refused "mounted|locked|in use" "$BLOBFS_MKFS" --force "$WORK/other-name.img"
head -c 10000000 /dev/urandom >"$(mount_of disk)/after"
equal "$(<"$(mount_of disk)/file")" precious "the file"
remount_filesystem disk
equal "$(<"$(mount_of disk)/file")" precious "the file after the remount"

# A filesystem of the kernel's on a loop device is in use as well.
if [[ $EUID == 0 ]] && command -v mkfs.ext4 >/dev/null; then
    mkdir "$WORK/mnt/ext4"
    truncate -s 64M "$WORK/ext4.img"
    mkfs.ext4 -q "$WORK/ext4.img"
    if mount -o loop "$WORK/ext4.img" "$WORK/mnt/ext4"; then
        loop=$(findmnt -no SOURCE "$WORK/mnt/ext4")
        refused "loop device.*mounted on" "$BLOBFS_MKFS" --force "$WORK/ext4.img"
        refused "mounted on" "$BLOBFS_MKFS" --force "$loop"
        umount "$WORK/mnt/ext4"
    fi
fi
# A loop device over the file is the same device: neither gets in beside the other.
if [[ $EUID == 0 ]] && loop=$(losetup -f --show "$image" 2>/dev/null); then
    refused "in use|locked|mounted" "$BLOBFS_FUSE" "$loop" "$WORK/second"
    refused "in use|locked|mounted" "$BLOBFS_MKFS" --force "$loop"
    unmount_filesystem disk
    "$BLOBFS_FUSE" "$loop" "$WORK/second"
    equal "$(<"$WORK/second/file")" precious "the file through a loop device"
    refused "in use|locked|mounted" "$BLOBFS_FUSE" "$image" "$(mount_of disk)"
    umount "$WORK/second"
    detached() {
        losetup -d "$loop" 2>/dev/null || true
        ! losetup "$loop" >/dev/null 2>&1
    }
    wait_until 20 detached || fail "the daemon does not let go of $loop"
    mount_filesystem disk
    equal "$(<"$(mount_of disk)/file")" precious "the file after that"
fi
unmount_filesystem disk
! "$BLOBFS_PROBE" locked "$image" 2>/dev/null || fail "the lock outlives the daemon"
