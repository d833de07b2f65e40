#!/bin/bash
# fsck.blobfs on filesystems that were used: sound ones, one whose daemon was killed, one that is mounted,
# and damaged ones, which hold everything again after the repair. Exit statuses are those of fsck(8).
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_blobfs
image=$(image_of disk)

# ends STATUS ARGUMENT...: fsck.blobfs ends with this status; its output is in $output.
ends() {
    local expected=$1 status=0
    shift
    output=$("$BLOBFS_FSCK" "$@" "$image" 2>&1 </dev/null) || status=$?
    equal "$status" "$expected" "the status of fsck.blobfs $*: $output"
    no_sanitizer_reports
}
said() { grep -qiE -- "$1" <<<"$output" || fail "fsck.blobfs does not say '$1': $output"; }
content_is_there() {
    mount_filesystem disk
    manifest "$(mount_of disk)/tree" >"$WORK/actual"
    unmount_filesystem disk
    same_manifest "$WORK/expected" "$WORK/actual" "$1: the tree differs"
}
# The block of the tree's root, from the superblock in the first slot.
tree_root() { od -An -t u8 -j $((4096 + 208)) -N 8 "$image" | tr -d ' '; }
flip_byte() { # offset
    local byte
    byte=$(od -An -t u1 -j "$1" -N 1 "$image" | tr -d ' ')
    # shellcheck disable=SC2059
    printf "\\x$(printf %02x $((byte ^ 0x55)))" | dd of="$image" bs=1 seek="$1" conv=notrunc status=none
}

make_filesystem disk 256M
ends 0 -n -f
mount_filesystem disk
tree=$(mount_of disk)/tree
mkdir "$tree"
cp -a "$BLOBFS_SOURCE/driver" "$BLOBFS_SOURCE/fs" "$tree"
ln "$tree/fs/README.md" "$tree/hard"
ln -s "$(printf 'x%.0s' {1..900})" "$tree/symbolic"
mkfifo "$tree/fifo"
setfattr -n user.note -v "$(printf 'y%.0s' {1..2000})" "$tree/hard"
truncate -s 50M "$tree/sparse"
manifest "$tree" >"$WORK/expected"
ends 8 -n -f
said "mounted|in use|another process"
unmount_filesystem disk
ends 0 -n -f -v
said "no errors"
ends 0 -p
said "clean"
ends 0 -n --json
python3 -c 'import json, sys; assert json.loads(sys.argv[1])["exit_status"] == 0' "$output"
content_is_there "after a check"

say "a daemon that was killed"
mount_filesystem disk
cp -a "$tree/driver" "$(mount_of disk)/more"
sync "$(mount_of disk)/more"
sync -f "$(mount_of disk)"
kill_daemon disk
before=$(b2sum <"$image")
ends 0 -n
equal "$(b2sum <"$image")" "$before" "the image after fsck.blobfs -n"
ends 0 -p
ends 0 -n
said "clean"
content_is_there "after a crash"

say "a superblock slot"
for slot in 4096 65536; do
    flip_byte $((slot + 300))
    ends 4 -n
    said "superblock slot"
    ends 1 -p
    ends 0 -n -f
done
content_is_there "after the repair of superblocks"

say "the root of the tree"
flip_byte $(($(tree_root) * 4096 + 3000))
ends 4 -n -f
said "damaged"
ends 4 -p -f
said "by hand"
ends 1 -y -f
ends 0 -n -f
content_is_there "after the repair of the tree"

say "wrong use"
ends 8
said "nobody to ask"
ends 16 -n -y
ends 16 --nonsense
image=$WORK/nothing
ends 8 -n
truncate -s 32M "$image"
ends 8 -y
said "no blobfs"
