#!/bin/bash
# An ordinary user formats a file of theirs, mounts it with fusermount3, works on it and unmounts it:
# no root, no hugepages. Others cannot look into the mount.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_blobfs
needs fusermount3 setpriv
home=$WORK/home
mkdir "$home" "$WORK/bin"
cp "$BLOBFS_MKFS" "$BLOBFS_FUSE" "$WORK/bin"
if [[ $EUID == 0 ]]; then
    user=$(id -u nobody) group=$(id -g nobody)
    chown "$user:$group" "$home" "$WORK/log"
    as_user() { setpriv --reuid="$user" --regid="$group" --clear-groups --inh-caps=-all env HOME="$home" "$@"; }
else
    as_user() { "$@"; }
fi
cd "$home"
as_user "$WORK/bin/mkfs.blobfs" -q --size 256M "$home/my.img"
as_user mkdir "$home/dir"
as_user "$WORK/bin/blobfs-fuse" "$home/my.img" "$home/dir"
grep -q " $home/dir .* fuse.blobfs " /proc/self/mountinfo || fail "not mounted as fuse.blobfs"
as_user sh -c "mkdir $home/dir/sub && echo mine >$home/dir/sub/file && ln $home/dir/sub/file $home/dir/hard"
as_user tar -C "$home/dir" -xf <(tar -C "$BLOBFS_SOURCE" -cf - driver) 2>/dev/null ||
    (tar -C "$BLOBFS_SOURCE" -cf - driver | as_user tar -C "$home/dir" -xf -)
if [[ $EUID == 0 ]]; then
    equal "$(as_user stat -c %u "$home/dir" "$home/dir/sub/file" | xargs)" "$user $user" "owner of root directory and file"
    ! ls "$home/dir" 2>/dev/null || fail "root can look into a user's mount"
fi
as_user fusermount3 -u "$home/dir"
gone() { ! mountpoint -q "$home/dir" && ! "$BLOBFS_PROBE" locked "$home/my.img" 2>/dev/null; }
wait_until $((10 * SLOW)) gone || fail "the daemon keeps the device after fusermount3 -u"
as_user "$WORK/bin/blobfs-fuse" "$home/my.img" "$home/dir"
equal "$(as_user cat "$home/dir/sub/file")" mine "the file after the remount"
as_user diff -r "$BLOBFS_SOURCE/driver" "$home/dir/driver" 2>/dev/null ||
    (as_user tar -C "$home/dir" -cf - driver | tar -C "$WORK" -xf - && diff -r "$BLOBFS_SOURCE/driver" "$WORK/driver")
as_user fusermount3 -u "$home/dir"
wait_until $((10 * SLOW)) gone || fail "the daemon keeps the device after fusermount3 -u"
if [[ $EUID == 0 ]]; then
    # A file of somebody else.
    truncate -s 64M "$WORK/roots.img" && chmod 600 "$WORK/roots.img"
    refused "permission denied" as_user "$WORK/bin/mkfs.blobfs" "$WORK/roots.img"
    refused "permission denied" as_user "$WORK/bin/blobfs-fuse" "$WORK/roots.img" "$home/dir"
fi
no_sanitizer_reports
