#!/bin/bash
# What is below fails: what applications see, what the log says, that unmounting ends, and that what fsync
# promised is there when all is well again.
# - A write of the kernel's cache that fails in the background: each descriptor's next fsync says so
#   once, as fsync(2) of Linux promises, though nobody waited for the write.
# - An image on a file system that becomes full (thin provisioning): ENOSPC, and reading goes on.
# - An image on a file system that gives I/O errors: EIO, read-only, and the mount ends.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_blobfs
needs_root
needs python3 xfs_io

# Errors of the background reach fsync. -----------------------------------------------------------
make_filesystem small 32M
mount_filesystem small
folder=$(mount_of small)
head -c 1000000 /dev/zero >"$folder/file"
sync "$folder/file"
dd if=/dev/zero of="$folder/filler" bs=64k 2>/dev/null || true
dd if=/dev/zero of="$folder/filler2" bs=4k 2>/dev/null || true
sync "$folder/filler" "$folder/filler2" 2>/dev/null || true
python3 - "$folder/file" <<'PYTHON'
import errno, os, sys

def fsync(descriptor):
    try:
        os.fsync(descriptor)
        return "no error"
    except OSError as error:
        return errno.errorcode[error.errno]

def is_told(descriptor, what, expected):
    got = fsync(descriptor)
    assert got == expected, f"{what}: {got} instead of {expected}"

writer = os.open(sys.argv[1], os.O_WRONLY)
other = os.open(sys.argv[1], os.O_RDONLY)
assert os.pwrite(writer, b"x" * 300000, 4000000) == 300000, "the cache did not take it"
os.sync()  # in the background: tells nobody
is_told(writer, "the writer's fsync", "ENOSPC")
is_told(writer, "the writer's second fsync", "no error")
is_told(other, "the fsync of one who had it open", "ENOSPC")
is_told(other, "his second fsync", "no error")
late = os.open(sys.argv[1], os.O_RDONLY)
is_told(late, "the fsync of one who opened it later", "no error")
os.pwrite(writer, b"y" * 1000, 0)  # in place: there is room for that
is_told(writer, "an fsync after a write that went well", "no error")
PYTHON
unmount_filesystem small

# Acknowledged pieces, until something refuses; then what was acknowledged must be there.
# pieces FOLDER: prints how many, and what refused.
pieces() {
    python3 - "$1" <<'PYTHON'
import errno, os, sys
number = 0
try:
    while number < 2000:
        descriptor = os.open(f"{sys.argv[1]}/piece{number}", os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, bytes([number % 251]) * 200000)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        number += 1
except OSError as error:
    print(number, errno.errorcode[error.errno])
else:
    print(number, "nothing")
PYTHON
}
pieces_are_there() { # folder, how many
    local n
    for ((n = 0; n < $2; n++)); do
        cmp -s "$1/piece$n" <(head -c 200000 /dev/zero | tr '\0' "$(printf '\\%03o' $((n % 251)))") ||
            fail "piece $n of $2, which fsync acknowledged, is not there"
    done
}

# Full below. ------------------------------------------------------------------------------------
mkdir "$WORK/thin"
mount -t tmpfs -o size=48M blobfs-e2e "$WORK/thin"
make_filesystem thin 1G # sparse
mv "$(image_of thin)" "$WORK/thin/thin.img"
ln -s "$WORK/thin/thin.img" "$(image_of thin)"
mount_filesystem thin
folder=$(mount_of thin)
read -r acknowledged why < <(pieces "$folder")
equal "$why" ENOSPC "what a file system that is full below says after $acknowledged pieces"
((acknowledged > 20)) || fail "only $acknowledged pieces fit"
pieces_are_there "$folder" 3
umount "$folder"
wait_until $((30 * SLOW)) is_gone "${DAEMON[thin]}" || fail "the daemon does not end on a device that is full below"
wait "${DAEMON[thin]}" || say "the daemon says: $(tail -n 1 "$WORK/log/thin.log")"
unset "DAEMON[thin]"
no_sanitizer_reports
mount -o remount,size=200M "$WORK/thin"
mount_filesystem thin
pieces_are_there "$folder" "$acknowledged"
say "full below: $acknowledged pieces were acknowledged, and are there"
echo more >"$folder/more"
unmount_filesystem thin
rm "$(image_of thin)"
umount "$WORK/thin"

# I/O errors below: an image on another blobfs, which is shut down. -----------------------------------
make_filesystem outer 256M
mount_filesystem outer
make_filesystem inner 64M
mv "$(image_of inner)" "$(mount_of outer)/inner.img"
ln -s "$(mount_of outer)/inner.img" "$(image_of inner)"
mount_filesystem inner
folder=$(mount_of inner)
background pieces "$folder" >"$WORK/pieces.txt"
writer=$!
some_pieces() { [[ -e $folder/piece10 ]]; }
wait_until 60 some_pieces || fail "no pieces are written"
xfs_io -x -c shutdown "$(mount_of outer)"
wait "$writer" || true
read -r acknowledged why <"$WORK/pieces.txt"
[[ $why == EIO || $why == EROFS ]] || fail "with I/O errors below, after $acknowledged pieces: $why"
is_read_only() { [[ $(touch "$folder/new" 2>&1) == *"Read-only file system"* ]]; }
wait_until 20 is_read_only || fail "the file system does not become read-only: $(touch "$folder/new" 2>&1)"
grep -q 'the filesystem is read-only now' "$WORK/log/inner.log" || fail "the log does not tell of it"
umount "$folder"
wait_until $((30 * SLOW)) is_gone "${DAEMON[inner]}" || fail "the daemon does not end with I/O errors below"
wait "${DAEMON[inner]}" && fail "the daemon says that all is on the device" || true
unset "DAEMON[inner]"
no_sanitizer_reports
unmount_filesystem outer
mount_filesystem outer
mount_filesystem inner
pieces_are_there "$folder" "$acknowledged"
say "I/O errors below: $acknowledged pieces were acknowledged, and are there"
unmount_filesystem inner
unmount_filesystem outer
