#!/bin/bash
# mkfs.blobfs as a program: what it makes, how fast, and what it refuses; a refusal says what, on what
# and why, and changes nothing: not the bytes, not the size, not the times.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_blobfs
cd "$WORK"
mkfs=$BLOBFS_MKFS

"$mkfs" -h | grep -q -- --cluster-size
"$mkfs" -V | grep -q '[0-9]\.[0-9]'

uuid=01234567-89ab-cdef-0123-456789abcdef
"$mkfs" --size 512MiB -L "my disk" -U $uuid made.img >summary
for text in made.img "512 MiB" "my disk" $uuid "4 KiB"; do grep -q "$text" summary || fail "the summary lacks $text: $(<summary)"; done
equal "$(stat -c %s made.img)" 536870912 "size of the file"
"$mkfs" --size 64M --json --cluster-size 64K json.img >json
grep -q '"cluster_bytes": 65536' json && grep -q '"bytes": 67108864' json || fail "JSON: $(<json)"
equal "$("$mkfs" -q --size 64M quiet.img 2>&1)" "" "what -q prints"

# 16 TiB (or what the filesystem under us can hold) in less than a second, taking a few MiB.
truncate -s 16T huge.img 2>/dev/null || truncate -s 15T huge.img 2>/dev/null || truncate -s 1T huge.img
start=$(date +%s%N)
"$mkfs" -q huge.img
took=$((($(date +%s%N) - start) / 1000000))
say "mkfs on $(($(stat -c %s huge.img) >> 40)) TiB: $took ms, $(du -k huge.img | cut -f1) KiB taken"
((took < 1000 * SLOW)) || fail "mkfs took $took ms"
# 64 MiB of them are the log, which has its blocks from the beginning.
(($(du -k huge.img | cut -f1) < 65536 + 16384)) || fail "mkfs took $(du -k huge.img | cut -f1) KiB"
mkdir mnt/huge && MOUNT_OPTIONS=()
mount_filesystem huge 2>/dev/null || fail "mounting 16 TiB"
echo works >mnt/huge/file
unmount_filesystem huge
rm huge.img

# -n does nothing.
truncate -s 64M plain.img
state() { stat -c '%s %b %y %z' "$1" && b2sum <"$1"; }
before=$(state plain.img)
"$mkfs" -n plain.img >summary && grep -qi 'dry run' summary
equal "$(state plain.img)" "$before" "the file after -n"
"$mkfs" -n --size 1G new.img >summary && [[ ! -e new.img ]] || fail "-n made a file"

# unchanged TEXT FILE MKFS-ARGUMENT...: refused, and FILE is as it was.
unchanged() {
    local text=$1 file=$2 was
    shift 2
    was=$(state "$file")
    refused "$text" "$mkfs" "$@"
    equal "$(state "$file")" "$was" "the file after a refusal"
}
truncate -s 15M small.img
unchanged "too small.*16 MiB" small.img small.img
unchanged "too small.*16 MiB" small.img --size 15900K small.img
unchanged "blobfs filesystem.*my disk.*--force" made.img made.img
unchanged "already" made.img --force --size 100M made.img
for broken in 1 16; do
    cp --sparse=always made.img damaged.img
    head -c 100 /dev/zero | dd of=damaged.img bs=4096 seek=$broken conv=notrunc status=none
    unchanged "blobfs filesystem" damaged.img damaged.img
done
echo text | dd of=plain.img bs=1 seek=500000 conv=notrunc status=none
unchanged "holds data.*--force" plain.img plain.img
foreign() { # what it says, program that makes it
    local text=$1
    shift
    rm -f foreign.img && truncate -s 64M foreign.img
    command -v "$1" >/dev/null || { say "no $1 here"; return; }
    "$@" foreign.img >/dev/null 2>&1 || { say "$1 failed"; return; }
    unchanged "$text.*--force" foreign.img foreign.img
    "$mkfs" -q --force foreign.img
    # Forced, nothing is left of it.
    unchanged "holds a blobfs filesystem;" foreign.img foreign.img
    mkdir -p mnt/foreign
    mount_filesystem foreign
    unmount_filesystem foreign
}
foreign 'ext4 filesystem labelled "mine"' mkfs.ext4 -q -F -L mine
foreign 'xfs filesystem' mkfs.xfs -q -f -d size=64m
foreign 'swap area' mkswap
foreign 'gpt partition table' sgdisk -n 1
printf 'label: gpt\n,\n' >table
gpt_table() { sfdisk -q "$1" <table; }
dos_table() { echo , | sfdisk -q --label dos "$1"; }
foreign 'gpt partition table' gpt_table
foreign 'partition table' dos_table

refused "does not exist.*--size" "$mkfs" none.img
[[ ! -e none.img ]] || fail "a refused mkfs made the file"
refused "directory" "$mkfs" mnt
refused "neither a file nor a block device" "$mkfs" /dev/null
refused "no such file" "$mkfs" --size 1G no/folder/x.img
for size in abc -5 1.5G 8X 99999999999G 0; do refused "size" "$mkfs" --size=$size bad.img; done
refused "cluster size" "$mkfs" --size 64M --cluster-size 5000 bad.img
refused "cluster size" "$mkfs" --size 64M --cluster-size 8M bad.img
refused "page size" "$mkfs" --size 64M --page-size 32K bad.img
refused "uuid" "$mkfs" --size 64M -U nonsense bad.img
refused "label" "$mkfs" --size 64M -L "$(printf 'x%.0s' {1..65})" bad.img
refused "label" "$mkfs" --size 64M -L $'a\nb' bad.img
refused "DEVICE" "$mkfs"
refused "help" "$mkfs" --nonsense bad.img
refused "too small" "$mkfs" --size 1M bad.img
refused "multiple" "$mkfs" --size 20000001 bad.img
[[ ! -e bad.img ]] || fail "a refused mkfs made the file"
if [[ $EUID == 0 ]] && command -v setpriv >/dev/null; then
    truncate -s 64M private.img && chmod 600 private.img
    cp "$mkfs" "$WORK/mkfs.blobfs"
    refused "permission denied" setpriv --reuid=65534 --regid=65534 --clear-groups "$WORK/mkfs.blobfs" private.img
fi
no_sanitizer_reports
