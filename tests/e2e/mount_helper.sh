#!/bin/bash
# Installed, `mount -t fuse.blobfs`, /etc/fstab and umount work, and umount returns when the device is
# free. The installation goes to a directory of the scenario, and a private mount namespace makes it
# look as if it were in place: nothing is left on the machine.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_blobfs
needs_root
needs unshare mount cmake

if [[ ${1:-} != inside ]]; then
    DESTDIR=$WORK/root cmake --install "$BLOBFS_BUILD" --prefix /usr >"$WORK/log/install.log"
    for file in sbin/mkfs.blobfs share/man/man8/mkfs.blobfs.8; do
        [[ -e $WORK/root/usr/$file ]] || fail "$file was not installed"
    done
    [[ -n $(find "$WORK/root" -name blobfs-fuse -type f -perm -111) ]] || fail "blobfs-fuse was not installed"
    make_filesystem disk 256M
    make_filesystem other 256M
    export BLOBFS_OUTER=$WORK
    unshare --mount --propagation private "$SELF" inside
    no_sanitizer_reports
    exit 0
fi

outer=$BLOBFS_OUTER
# What was installed on top of what is there, for mount(8), which looks in /sbin only.
for folder in sbin bin; do
    [[ -d $outer/root/usr/$folder ]] || continue
    cp -a "/usr/$folder" "$WORK/$folder"
    cp -a "$outer/root/usr/$folder/." "$WORK/$folder/"
    mount --bind "$WORK/$folder" "/usr/$folder"
done
[[ /sbin -ef /usr/sbin ]] || mount --bind /usr/sbin /sbin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
image=$outer/disk.img
folder=$outer/mnt/disk
free() { ! "$BLOBFS_PROBE" locked "$1" 2>/dev/null; }

mount -t fuse.blobfs "$image" "$folder"
equal "$(findmnt -no FSTYPE "$folder")" fuse.blobfs "type of the filesystem"
head -c 30000000 /dev/urandom >"$folder/file"
sum=$(b2sum <"$folder/file")
umount "$folder"
free "$image" || fail "umount returned before the daemon let go of the device"
mkfs.blobfs --dry-run --force -q "$image" || fail "mkfs right after umount"

# Generic options, also of a mount that is there.
mount -t fuse.blobfs "$image" "$folder"
cp /bin/true "$folder/program" && mknod "$folder/null" c 1 3
"$folder/program" && : >"$folder/null" || fail "exec and dev are not the default of root's mounts"
echo held >"$folder/held"
mount -o remount,ro "$folder"
! touch "$folder/x" 2>/dev/null || fail "remount,ro was not heeded"
equal "$(<"$folder/held")" held "a file after remount,ro"
mount -o remount,rw "$folder"
touch "$folder/x" || fail "remount,rw was not heeded"
mount -o remount,noexec,nodev,nosuid "$folder"
! "$folder/program" 2>/dev/null || fail "remount,noexec was not heeded"
! (: >"$folder/null") 2>/dev/null || fail "remount,nodev was not heeded"
findmnt -no OPTIONS "$folder" | grep -q nosuid || fail "remount,nosuid was not heeded"
umount "$folder"
mount -t fuse.blobfs -o noexec,nosuid,nodev,noatime "$image" "$folder"
! "$folder/program" 2>/dev/null || fail "noexec was not heeded"
! (: >"$folder/null") 2>/dev/null || fail "nodev was not heeded"
umount "$folder"

cat >"$WORK/fstab" <<FSTAB
$image $folder fuse.blobfs noatime,allow_other 0 0
$outer/other.img $outer/mnt/other fuse.blobfs ro,noauto 0 0
FSTAB
mount --fstab "$WORK/fstab" -a
equal "$(b2sum <"$folder/file")" "$sum" "the file after umount and mount"
! mountpoint -q "$outer/mnt/other" || fail "noauto was mounted"
mount --fstab "$WORK/fstab" "$outer/mnt/other"
! touch "$outer/mnt/other/x" 2>/dev/null || fail "ro of fstab was not heeded"
umount "$outer/mnt/other"
free "$outer/other.img" || fail "umount returned before the daemon let go of the device"
umount "$image"
free "$image" || fail "umount DEVICE returned before the daemon let go of the device"

# A mount that cannot be: the message and the status reach the user.
refused "blobfs" mount -t fuse.blobfs /etc/hostname "$folder"
! mountpoint -q "$folder" || fail "mounted what is no filesystem"
