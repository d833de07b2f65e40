#!/bin/bash
# FUSE over io_uring: where the kernel does not offer it the mount goes on without; where it does,
# requests come that way, programs see no difference, and a daemon that is killed or ends loses nothing. (The switch
# is the kernel's, for all mounts to come: it is put back.)
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_root
needs_blobfs
: "${BLOBFS_POSIX:?run this by ctest}" "${BLOBFS_RANDOM_IO:?run this by ctest}"
switch=/sys/module/fuse/parameters/enable_uring
[[ -w $switch ]] || skip "this kernel has no FUSE over io_uring (Linux 6.14 or newer)"
before=$(<"$switch")
put_back() {
    local status=$?
    set +e
    echo "$before" >"$switch"
    (exit "$status")
    take_down
}
trap put_back EXIT
MOUNT_OPTIONS=(-o io_uring)
make_filesystem disk 512M
folder=$(mount_of disk)
log=$WORK/log/disk.log

echo N >"$switch"
mount_filesystem disk
grep -q 'does not offer FUSE over io_uring' "$log" || fail "no word that the kernel does not offer it"
echo text >"$folder/file"
remount_filesystem disk
equal "$(cat "$folder/file")" text "a file written without io_uring"
unmount_filesystem disk

echo Y >"$switch"
: >"$log"
mount_filesystem disk
equal "$(cat "$folder/file")" text "a file read by io_uring"
mkdir "$folder/cases" "$folder/io"
chmod 755 "$WORK/mnt"
BLOBFS_POSIX_FILESYSTEM=blobfs BLOBFS_POSIX_FOLDER=$folder/cases "$BLOBFS_POSIX" --gtest_brief=1 ||
    fail "cases fail with io_uring"
"$BLOBFS_RANDOM_IO" "$folder/io" "${BLOBFS_SEED:-$RANDOM}" 1000 || fail "random I/O with io_uring"
kill -USR1 "${DAEMON[disk]}"
counted() { grep -q 'statistics: requests' "$log"; }
wait_until $((20 * SLOW)) counted || fail "no statistics"
read -r requests by_io_uring < <(sed -n 's/.*statistics: requests \([0-9]*\) (\([0-9]*\) by io_uring.*/\1 \2/p' "$log" | tail -n 1)
say "$by_io_uring of $requests requests by io_uring"
((by_io_uring * 2 > requests && by_io_uring > 1000)) || fail "requests did not come by io_uring"

# Killed with requests in its queues.
head -c 1000000 /dev/urandom >"$WORK/data"
cp "$WORK/data" "$folder/synced"
sync "$folder/synced"
background bash -c "while true; do echo x >'$folder/y' && cat '$folder/y' && rm '$folder/y'; done 2>/dev/null"
sleep 0.3
kill_daemon disk
end_process "${CHILDREN[-1]}"
mount_filesystem disk
cmp "$WORK/data" "$folder/synced" || fail "a synced file is damaged"
unmount_filesystem disk

# Ended with a file open and requests in its queues: by a signal, and by the kernel.
connections=/sys/fs/fuse/connections
for end in signal abort; do
    mount_filesystem disk
    connection=$connections/$(mountpoint -d "$folder" | cut -d: -f2)
    if [[ $end == abort && ! -w $connection/abort ]]; then
        unmount_filesystem disk
        continue
    fi
    background bash -c "exec dd if=/dev/zero of='$folder/open' bs=4k count=50000 oflag=direct 2>/dev/null"
    writing() { [[ $(stat -c %s "$folder/open" 2>/dev/null || echo 0) -gt 100000 ]]; }
    wait_until $((20 * SLOW)) writing || fail "nothing is written"
    if [[ $end == signal ]]; then kill -TERM "${DAEMON[disk]}"; else echo 1 >"$connection/abort"; fi
    daemon_ended disk
    ! mountpoint -q "$folder" || fail "still mounted after its end by $end"
    end_process "${CHILDREN[-1]}"
    check_store disk
    mount_filesystem disk
    cmp "$WORK/data" "$folder/synced" || fail "a synced file is damaged after an end by $end"
    rm "$folder/open"
    unmount_filesystem disk
done
