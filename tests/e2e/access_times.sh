#!/bin/bash
# noatime, relatime, strictatime: which reads move the access time, if they reach the filesystem at all.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_blobfs
make_filesystem disk 64M

# read_anew: reads the file from the filesystem, not from the kernel's cache.
read_anew() {
    dd of="$file" oflag=nocache conv=notrunc,fdatasync count=0 status=none
    dd if="$file" iflag=direct of=/dev/null status=none
}
access_time() { stat -c %X "$file"; }

file=$(mount_of disk)/file
old=$(date -d 2001-02-03 +%s)
recent=$(date -d yesterday +%s)
for policy in noatime relatime strictatime; do
    MOUNT_OPTIONS=(-o "$policy")
    mount_filesystem disk
    head -c 8192 /dev/urandom >"$file"
    touch -a -d "@$old" "$file"
    read_anew
    moved=$(access_time)
    case $policy in
    noatime) equal "$moved" "$old" "access time after reading with noatime" ;;
    *) [[ $moved -gt $recent ]] || fail "$policy: the access time did not move, it is $moved" ;;
    esac
    # Later than the modification and not a day old: only strictatime moves it.
    touch -m -d "@$old" "$file"
    soon=$(($(date +%s) + 3600))
    touch -a -d "@$soon" "$file"
    read_anew
    moved=$(access_time)
    case $policy in
    strictatime) [[ $moved -lt $soon ]] || fail "strictatime: the access time did not move" ;;
    *) equal "$moved" "$soon" "access time after reading again with $policy" ;;
    esac
    kept=$(access_time)
    unmount_filesystem disk
    mount_filesystem disk
    equal "$(access_time)" "$kept" "access time after the remount ($policy)"
    unmount_filesystem disk
done
