#!/bin/bash
# blobfs-scrub on a mount: nothing is found beside work on it; how it goes is shown and can be
# cancelled; it does not keep the filesystem from being unmounted; damage is found, told by the log
# too, and nothing else suffers. Root only, and blobfs only.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_blobfs
needs_root
needs setpriv
scrub=${BLOBFS_SCRUB:?}
make_filesystem disk 1G
folder=$(mount_of disk)
mount_filesystem disk

status_of() {
    local status=0
    "$@" >"$WORK/out.txt" 2>"$WORK/err.txt" || status=$?
    echo $status
}
equal "$(status_of "$scrub" --status "$folder")" 0 "status before the first check"
grep -q 'was not checked' "$WORK/out.txt" || fail "--status says: $(<"$WORK/out.txt")"
equal "$(status_of "$scrub" /proc)" 8 "a check of another filesystem"
grep -q 'no blobfs is mounted there' "$WORK/err.txt" || fail "it says: $(<"$WORK/err.txt")"
equal "$(status_of setpriv --reuid=65534 --clear-groups "$scrub" "$folder")" 8 "a check by an ordinary user"
grep -q 'only root' "$WORK/err.txt" || fail "it says: $(<"$WORK/err.txt")"
equal "$(status_of "$scrub" --rate nonsense "$folder")" 16 "a rate that is none"

mkdir "$folder/files"
for i in $(seq 1 40); do
    mkdir "$folder/files/$i"
    (cd "$folder/files/$i" && for j in $(seq 1 100); do echo "$i $j" >"a file with a long name, number $j"; done)
done
sync -f "$folder"

# Beside everything that can change meanwhile.
work() {
    local i
    for i in $(seq 1 1000); do
        cp -r "$folder/files/$((i % 40 + 1))" "$folder/work$i"
        head -c 300000 /dev/urandom >"$folder/big$((i % 3))"
        sync "$folder/big$((i % 3))"
        rm -rf "$folder/work$((i - 1))"
    done
}
background work 2>/dev/null
worker=$!
for round in 1 2 3; do
    equal "$(status_of "$scrub" --rate 4M --json "$folder")" 0 "check $round beside work: $(cat "$WORK/out.txt" "$WORK/err.txt")"
    python3 - "$WORK/out.txt" <<'PYTHON'
import json, sys
result = json.load(open(sys.argv[1]))
assert result["outcome"] == "complete" and result["found"] == 0, result
assert result["names_checked"] and result["inodes"] > 4000, result
assert result["pages"] > 50, result
PYTHON
done
end_process "$worker"
wait "$worker" 2>/dev/null || true

# One at a time, cancelled by the one who waits for it, or by another.
runs() { "$scrub" --status "$folder" | grep -q 'read, 0 problems so far'; }
background "$scrub" --rate 50K "$folder" >"$WORK/slow.txt" 2>&1
slow=$!
wait_until 20 runs || fail "--status does not tell of the one that runs"
equal "$(status_of "$scrub" "$folder")" 8 "a second check"
grep -q 'being checked already' "$WORK/err.txt" || fail "it says: $(<"$WORK/err.txt")"
kill -INT "$slow"
status=0
wait "$slow" || status=$?
equal "$status" 32 "the status of a check that was interrupted: $(<"$WORK/slow.txt")"
background "$scrub" --rate 50K "$folder" >"$WORK/slow.txt" 2>&1
slow=$!
wait_until 20 runs || fail "a cancelled check does not let another one start"
equal "$(status_of "$scrub" --cancel "$folder")" 0 "--cancel"
status=0
wait "$slow" || status=$?
equal "$status" 32 "the status of a check that was cancelled"

# It ends with the mount, which it does not hold.
background "$scrub" --rate 50K "$folder" >"$WORK/slow.txt" 2>&1
slow=$!
wait_until 20 runs || fail "the check does not run"
wait_until 20 umount "$folder" || fail "a check keeps the filesystem from being unmounted"
daemon_ended disk
status=0
wait "$slow" || status=$?
equal "$status" 8 "the status of a check whose filesystem was unmounted"
grep -q 'was unmounted before' "$WORK/slow.txt" || fail "it says: $(<"$WORK/slow.txt")"
check_store disk

# A page is damaged; what is read by then is in memory and goes on.
mount_filesystem disk
ls -lR "$folder" >/dev/null
sync -f "$folder"
equal "$(status_of "$scrub" --rate 0 "$folder")" 0 "a check before the damage"
python3 - "$(image_of disk)" <<'PYTHON'
import struct, sys
image = open(sys.argv[1], "r+b")
image.seek(4096)
slot = image.read(4096)
root = struct.unpack_from("<Q", slot, 208)[0]
page_bytes = struct.unpack_from("<I", slot, 132)[0]
image.seek(root * 4096)
page = image.read(page_bytes)
assert page[:4] == b"BFPG" and page[4] == 2, page[:8]
# The last child of the root: its pointer stands in the last slot's value.
count = struct.unpack_from("<H", page, 6)[0]
_, offset, key_bytes = struct.unpack_from("<IHH", page, 64 + 8 * (count - 1))
child = struct.unpack_from("<Q", page, offset + 2 + key_bytes)[0]
image.seek(child * 4096 + 2000)
byte = image.read(1)[0]
image.seek(child * 4096 + 2000)
image.write(bytes([byte ^ 0x40]))
PYTHON
equal "$(status_of "$scrub" --rate 0 "$folder")" 4 "a check after the damage: $(cat "$WORK/out.txt" "$WORK/err.txt")"
grep -q 'of the tree (level 0) is damaged' "$WORK/out.txt" || fail "it says: $(<"$WORK/out.txt")"
grep -q 'found by the check: .* is damaged' "$WORK/log/disk.log" || fail "the log does not tell of it"
echo "goes on" >"$folder/files/1/new"
equal "$(<"$folder/files/1/new")" "goes on" "a file made after the damage was found"
umount "$folder"
wait "${DAEMON[disk]}" || true
unset "DAEMON[disk]"
