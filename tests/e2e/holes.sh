#!/bin/bash
# A file of 3 TiB that is nearly all holes: data where it was written, zeroes elsewhere, little space
# taken, found quickly by SEEK_DATA, given back by punching a hole and by truncation.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
make_filesystem disk 1G
mount_filesystem disk
file="$(mount_of disk)/sparse"
offsets=(0 1000000 1073741824 1099511627776 2199023259999 3298534883327)

put() { printf 'data at %s' "$1" | dd of="$file" oflag=seek_bytes conv=notrunc seek="$1" status=none; }
get() { dd if="$file" iflag=skip_bytes,count_bytes skip="$1" count="$2" status=none | tr -d '\0'; }

truncate -s 3T "$file"
equal "$(stat -c %s "$file")" 3298534883328 "size after truncate"
equal "$(allocated_bytes "$file")" 0 "space of a file that is one hole"
for offset in "${offsets[@]}"; do put "$offset"; done
verify() {
    local offset
    for offset in "${offsets[@]}"; do
        equal "$(get "$offset" 40)" "data at $offset" "what was written at $offset"
        equal "$(get $((offset + 10000)) 50000)" "" "the hole after $offset"
    done
    (($(allocated_bytes "$file") <= 1048576)) || fail "takes $(allocated_bytes "$file") bytes"
}
verify
remount_filesystem disk
verify

# cp finds the data by SEEK_DATA; reading 3 TiB of zeroes would take much longer than this.
timeout $((60 * SLOW)) cp --sparse=auto "$file" "$file.copy" || fail "cp of a sparse file is not quick"
equal "$(stat -c %s "$file.copy")" "$(stat -c %s "$file")" "size of the copy"
(($(allocated_bytes "$file.copy") <= 4194304)) || fail "the copy takes $(allocated_bytes "$file.copy") bytes"
equal "$(dd if="$file.copy" iflag=skip_bytes,count_bytes skip=1099511627776 count=40 status=none | tr -d '\0')" "data at 1099511627776" "data in the copy"
rm "$file.copy"

fallocate --punch-hole --offset 1099511000000 --length 2000000 "$file"
equal "$(get 1099511627776 40)" "" "a punched hole"
truncate -s 1000500 "$file"
truncate -s 3T "$file"
equal "$(get 1000000 600)" "data at 1000000" "what truncation kept"
equal "$(get 1073741824 40)" "" "what truncation cut off"
equal "$(get 2199023259999 40)" "" "what truncation cut off"
remount_filesystem disk
equal "$(get 1000000 600)" "data at 1000000" "what truncation kept, after the remount"
equal "$(get 1073741824 40)" "" "what truncation cut off, after the remount"
unmount_filesystem disk
