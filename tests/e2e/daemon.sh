#!/bin/bash
# blobfs-fuse as a program: it goes to the background when the mount works, it is listed as it should
# be, -o options hold, and umount, fusermount3 -u, SIGTERM and SIGINT end it with everything durable.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_blobfs
needs_root
make_filesystem disk 256M
image=$(image_of disk)
folder=$(mount_of disk)

"$BLOBFS_FUSE" -h | grep -qi mountpoint || fail "-h does not help"
"$BLOBFS_FUSE" -V | grep -q '[0-9]\.[0-9]' || fail "-V says no version"

is_free() { ! mountpoint -q "$folder" && ! "$BLOBFS_PROBE" locked "$image" 2>/dev/null; }
daemon_pid() { # the one process that has the image open
    local link
    for link in /proc/[0-9]*/fd/*; do
        if [[ $(readlink "$link" 2>/dev/null) == "$image" ]]; then
            link=${link#/proc/}
            echo "${link%%/*}"
            return
        fi
    done
    fail "no process has $image open"
}
start() { timeout $((20 * SLOW)) "$BLOBFS_FUSE" "$@" "$image" "$folder" </dev/null >"$WORK/log/start.log" 2>&1 || fail "start: $(<"$WORK/log/start.log")"; }

# Working when the command returns, from another directory, with a relative path.
(cd "$WORK" && timeout $((20 * SLOW)) "$BLOBFS_FUSE" disk.img mnt/disk </dev/null)
mountpoint -q "$folder" || fail "not mounted when the command returned"
equal "$(findmnt -no FSTYPE "$folder")" fuse.blobfs "type of the filesystem"
equal "$(findmnt -no SOURCE "$folder")" "$image" "source of the mount"
echo 1 >"$folder/umount"
umount "$folder"
wait_until $((10 * SLOW)) is_free || fail "umount does not end the daemon"

start
equal "$(<"$folder/umount")" 1 "what was written before umount"
echo 2 >"$folder/fusermount"
fusermount3 -u "$folder"
wait_until $((10 * SLOW)) is_free || fail "fusermount3 -u does not end the daemon"

for signal in TERM INT; do
    start
    equal "$(<"$folder/fusermount")" 2 "what was written before fusermount3 -u"
    head -c 3000000 /dev/urandom >"$folder/$signal"
    b2sum <"$folder/$signal" >"$WORK/$signal.sum"
    pid=$(daemon_pid)
    kill -"$signal" "$pid"
    wait_until $((10 * SLOW)) is_free || fail "SIG$signal does not end the mount"
    wait_until $((10 * SLOW)) is_gone "$pid" || fail "SIG$signal does not end the daemon"
    start
    equal "$(b2sum <"$folder/$signal")" "$(<"$WORK/$signal.sum")" "what was written before SIG$signal"
    umount "$folder"
    wait_until $((10 * SLOW)) is_free || fail "umount does not end the daemon"
done
check_store disk

# In the foreground, its exit status says that it went well.
mount_filesystem disk
kill -TERM "${DAEMON[disk]}"
daemon_ended disk
! mountpoint -q "$folder" || fail "still mounted after SIGTERM"

before=$(b2sum <"$image")
start -o ro
! touch "$folder/new" 2>"$WORK/error" || fail "a read-only mount was written to"
grep -q 'Read-only' "$WORK/error"
equal "$(<"$folder/umount")" 1 "a file on the read-only mount"
equal "$(findmnt -no OPTIONS "$folder" | grep -cw ro)" 1 "ro in the options"
umount "$folder"
wait_until $((10 * SLOW)) is_free || fail "umount does not end the daemon"
equal "$(b2sum <"$image")" "$before" "the image after a read-only mount"

start -o fsname=mydisk,noatime,allow_other,default_permissions
equal "$(findmnt -no SOURCE "$folder")" mydisk "fsname"
if command -v setpriv >/dev/null; then
    chmod 755 "$folder"
    as_nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups)
    "${as_nobody[@]}" cat "$folder/umount" >/dev/null || fail "allow_other does not allow others"
    ! "${as_nobody[@]}" touch "$folder/umount" 2>/dev/null || fail "others may write what they may not"
    chmod 600 "$folder/umount"
    ! "${as_nobody[@]}" cat "$folder/umount" 2>/dev/null || fail "others may read what they may not"
fi
umount "$folder"
wait_until $((10 * SLOW)) is_free || fail "umount does not end the daemon"
no_sanitizer_reports
