#!/bin/bash
# blobfs-fuse on bad input: it fails in the foreground, says what is wrong with what and what to do,
# mounts nothing and changes nothing.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_blobfs
cd "$WORK"
daemon=$BLOBFS_FUSE
mkdir dir full
touch full/file
"$BLOBFS_MKFS" -q --size 64M good.img
truncate -s 64M empty.img
truncate -s 1M tiny.img
truncate -s 64M ext4.img && mkfs.ext4 -q ext4.img
head -c 2000000 good.img >cut.img
sums=$(b2sum ./*.img)

no() { # text, arguments
    local text=$1
    shift
    refused "$text" timeout $((20 * SLOW)) "$daemon" "$@"
    ! mountpoint -q dir || fail "mounted by '$*'"
}
no "none.img.*(no such file|not found|does not exist)" none.img dir
no "not a blobfs|mkfs.blobfs" empty.img dir
no "empty.img" empty.img dir
no "tiny.img" tiny.img dir
no "not a blobfs|mkfs.blobfs" ext4.img dir
no "cut.img" cut.img dir
no "dir" dir dir
no "nowhere.*(no such|not found|does not exist)|(no such|not found|does not exist).*nowhere" good.img nowhere
no "not a directory" good.img good.img
no "mountpoint|usage|required" good.img
no "device|usage|required" 
no "nonsense" good.img dir -o nonsense_option
no "help|nonsense" --nonsense good.img dir
no "commit" good.img dir -o commit=abc
no "0000:ff:1f.7|pcie|controller" pcie:0000:ff:1f.7 dir
equal "$(b2sum ./*.img)" "$sums" "the images after refused mounts"
chmod 400 good.img
if [[ $EUID != 0 ]]; then no "permission denied" good.img dir; fi
no_sanitizer_reports
