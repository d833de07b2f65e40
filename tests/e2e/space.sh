#!/bin/bash
# df and du: writing takes space, holes take none, deleting gives it back; the numbers are the same
# after a remount.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
make_filesystem disk 1G
mount_filesystem disk
folder=$(mount_of disk)
mebibyte=1048576
size=$(df -B1 --output=size "$folder" | tail -n 1 | tr -d ' ')
((size > 900 * mebibyte && size <= 1024 * mebibyte)) || fail "df says that 1 GiB has $size bytes"
empty=$(used_bytes "$folder")
((empty < 100 * mebibyte)) || fail "an empty filesystem uses $empty bytes"
near() { # value, expected, slack in MiB, text
    (($1 >= $2 - $3 * mebibyte && $1 <= $2 + $3 * mebibyte)) || fail "$4: $1 is not about $2"
}
head -c $((100 * mebibyte)) /dev/urandom >"$folder/data"
sync -f "$folder"
near "$(allocated_bytes "$folder/data")" $((100 * mebibyte)) 1 "du of 100 MiB"
near "$(used_bytes "$folder")" $((empty + 100 * mebibyte)) 4 "used after writing 100 MiB"
truncate -s 10G "$folder/hole"
equal "$(allocated_bytes "$folder/hole")" 0 "du of a hole"
near "$(du -sB1 "$folder" | cut -f1)" $((100 * mebibyte)) 1 "du of everything"
cp "$folder/data" "$folder/copy"
fallocate -l 50M "$folder/ahead"
sync -f "$folder"
near "$(allocated_bytes "$folder/ahead")" $((50 * mebibyte)) 1 "du of preallocated space"
equal "$(head -c 1000000 "$folder/ahead" | tr -d '\0' | wc -c)" 0 "preallocated space reads as zeroes"
near "$(used_bytes "$folder")" $((empty + 250 * mebibyte)) 6 "used after the copy"
# Small data takes space, too: none would mean that there is a hole.
seq 300 >"$folder/small"
sync "$folder/small"
(($(allocated_bytes "$folder/small") >= 1024)) || fail "du of a small file: $(allocated_bytes "$folder/small")"
tar -C "$folder" -cSf "$WORK/small.tar" small
tar -xOf "$WORK/small.tar" | cmp - "$folder/small" || fail "tar -S took a small file for a hole"
rm "$folder/small"
used=$(used_bytes "$folder")
remount_filesystem disk
near "$(used_bytes "$folder")" "$used" 2 "used after the remount"
truncate -s 30M "$folder/copy"
sync -f "$folder"
near "$(allocated_bytes "$folder/copy")" $((30 * mebibyte)) 1 "du after truncate"
rm "$folder"/{data,copy,hole,ahead}
is_empty() { sync -f "$folder" && (($(used_bytes "$folder") < empty + 4 * mebibyte)); }
wait_until 20 is_empty || fail "space did not come back: $empty before, $(used_bytes "$folder") now"
equal "$(df --output=itotal "$folder" | tail -n 1 | awk '{ print ($1 > 1000) }')" 1 "inodes of df -i"
unmount_filesystem disk
