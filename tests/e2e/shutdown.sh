#!/bin/bash
# The shutdown ioctl (XFS_IOC_GOINGDOWN) on a mount, under load: everything after it is EIO, what the
# kernel has in its cache included; nothing more is written to the device; unmounting ends well; the
# next mount recovers with all that fsync promised and all that was answered. Root only.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_blobfs
needs_root
needs xfs_io setpriv
make_filesystem disk 512M
image=$(image_of disk)
folder=$(mount_of disk)

lines_in() { [[ -f $1 && $(wc -l <"$1") -ge $2 ]]; }
shut_down() { xfs_io -r -x -c "shutdown ${2:-}" "$1" 2>&1; }
checksum() { cp --sparse=always "$image" "$WORK/copy" && cksum <"$WORK/copy"; }
# eio COMMAND...: it fails, and says why.
eio() {
    local output
    ! output=$("$@" 2>&1) || fail "after a shutdown '$*' succeeds"
    [[ $output == *"Input/output error"* ]] || fail "after a shutdown '$*' says: $output"
}
# load_and_shut_down NAME PATH [OPTION]: PATH, of the mount, is what the ioctl is called on.
load_and_shut_down() {
    local name=$1 writer copier content
    mkdir "$folder/$name"
    sync -f "$folder"
    background "$BLOBFS_PROBE" crash-writer "$folder/$name" "$WORK/$name.log"
    writer=$!
    background cp -a /usr/include "$folder/$name.copy" 2>"$WORK/cp.txt"
    copier=$!
    wait_until 60 lines_in "$WORK/$name.log" 30 || fail "the writer makes no files"
    date +%s.%N >"$WORK/$name.time"
    equal "$(shut_down "$2" "${3:-}")" "" "what the ioctl says"
    content=$(checksum)
    wait "$writer" "$copier" 2>/dev/null || true
    eio cat "$folder/cached"
    eio stat "$folder/cached"
    eio ls "$folder"
    eio touch "$folder/new"
    eio dd if=/dev/zero of="$folder/cached" conv=notrunc,fsync bs=4k count=1 status=none
    eio sync "$folder/cached"
    eio df "$folder"
    sleep 1.2 # longer than a commit waits, which is not to be any more
    equal "$(checksum)" "$content" "the device after a shutdown"
    unmount_filesystem disk
    grep -q 'it was shut down before' "$WORK/log/disk.log" || fail "the log does not tell of it"
    ! grep -qi 'read-only now' "$WORK/log/disk.log" || fail "a shutdown is not a failure"
    mount_filesystem disk
    result=$("$BLOBFS_PROBE" crash-verify "$folder/$name" "$WORK/$name.log" "$(<"$WORK/$name.time")")
    say "$name: $result"
    equal "$(<"$folder/cached")" "in the cache" "a file from before"
}

mount_filesystem disk
echo "in the cache" >"$folder/cached"
output=$(setpriv --reuid=65534 --regid=65534 --clear-groups xfs_io -r -x -c shutdown "$folder" 2>&1 || true)
[[ $output == *"Operation not permitted"* ]] || fail "an ordinary user is told: $output"
output=$(setpriv --bounding-set=-sys_admin xfs_io -r -x -c shutdown "$folder" 2>&1 || true)
[[ $output == *"Operation not permitted"* ]] || fail "root without CAP_SYS_ADMIN is told: $output"
equal "$(<"$folder/cached")" "in the cache" "a file after attempts to shut down"

load_and_shut_down on_the_root "$folder"
load_and_shut_down on_a_file "$folder/cached" -f
unmount_filesystem disk
# Nothing depends on load: a shutdown of an idle mount, and of one that is read-only.
MOUNT_OPTIONS=(-o ro)
mount_filesystem disk
equal "$(shut_down "$folder/cached")" "" "what the ioctl says of a read-only mount"
eio cat "$folder/cached"
unmount_filesystem disk
