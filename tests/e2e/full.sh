#!/bin/bash
# A full device is ENOSPC; what was there stays whole, rm works, the space comes back and can be used;
# with one large file, with many small ones, and across a remount while full.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs python3
make_filesystem disk 64M
mount_filesystem disk
folder=$(mount_of disk)
head -c 5000000 /dev/urandom >"$folder/precious"
cp "$folder/precious" "$WORK/precious"
sync "$folder/precious"
free=$(free_bytes "$folder")

fill() { # a file as large as it gets
    local status=0
    dd if=/dev/urandom of="$folder/large" bs=256k 2>"$WORK/error" || status=$?
    sync -f "$folder" 2>>"$WORK/error" || status=$?
    [[ $status != 0 ]] || fail "more was written than fits"
    grep -q 'No space left' "$WORK/error" || fail "not ENOSPC: $(<"$WORK/error")"
}
for round in 1 2 3; do
    fill
    large=$(allocated_bytes "$folder/large")
    ((large > free * 8 / 10)) || fail "round $round: only $large of $free bytes could be written"
    ! head -c 3000000 /dev/urandom 2>/dev/null >"$folder/another" || ! sync "$folder/another" 2>/dev/null || fail "more fits into a full device"
    cmp "$folder/precious" "$WORK/precious" || fail "a full device hurt another file"
    # Who asks for no more than write(2) and close(2) is told, too.
    python3 - "$folder/another" <<'PYTHON' || fail "writing to a full device and closing the file succeeded"
import errno, os, sys
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
try:
    os.write(file, os.urandom(3000000))
    os.close(file)
except OSError as error:
    sys.exit(error.errno != errno.ENOSPC)
sys.exit(1)
PYTHON
    [[ $round == 2 ]] && remount_filesystem disk
    rm -f "$folder/large" "$folder/another"
    space_is_back() { sync -f "$folder" && (($(free_bytes "$folder") > free - 2000000)); }
    wait_until 20 space_is_back || fail "round $round: $(free_bytes "$folder") of $free bytes came back"
done

# What fsync has acknowledged on the way to a full device is there afterwards: to the last byte.
acknowledged=0
while head -c 500000 /dev/zero | tr '\0' "$(printf '\\%03o' $((acknowledged % 200 + 40)))" 2>/dev/null >>"$folder/pieces" &&
    sync "$folder/pieces" 2>/dev/null; do
    acknowledged=$((acknowledged + 1))
    ((acknowledged < 1000)) || fail "500 MB fit into 64 MiB"
done
remount_filesystem disk
for ((n = 0; n < acknowledged; n++)); do
    cmp -s -i $((n * 500000)):0 -n 500000 "$folder/pieces" <(head -c 500000 /dev/zero | tr '\0' "$(printf '\\%03o' $((n % 200 + 40)))") ||
        fail "piece $n of $acknowledged, which fsync acknowledged, is not there"
done
say "$acknowledged pieces were acknowledged, and are there"
rm "$folder/pieces"
wait_until 20 space_is_back || fail "the space of the pieces did not come back"

# A database is not damaged by a full device.
if command -v sqlite3 >/dev/null; then
    sqlite3 "$folder/db" 'create table t (a, b)'
    inserts=0
    while sqlite3 "$folder/db" 'insert into t select 2, randomblob(100000) from (values (1), (2), (3), (4), (5))' 2>"$WORK/error"; do
        inserts=$((inserts + 1))
        ((inserts < 1000)) || fail "500 MB fit into a database on 64 MiB"
    done
    for when in now "after a remount"; do
        equal "$(sqlite3 "$folder/db" 'pragma integrity_check')" ok "the database, $when"
        equal "$(sqlite3 "$folder/db" 'select count(*) from t')" $((inserts * 5)) "rows of the database, $when"
        [[ $when == now ]] && remount_filesystem disk
    done
    rm "$folder"/db*
    wait_until 20 space_is_back || fail "the space of the database did not come back"
fi

# Many small files, until names or data find no room.
mkdir "$folder/small"
i=0
while mkdir "$folder/small/$i" 2>"$WORK/error"; do
    (cd "$folder/small/$i" && for n in $(seq 1 500); do printf '%-2500s' "file $n of $i" >"$n" || exit 1; done) 2>"$WORK/error" || break
    i=$((i + 1))
    ((i < 2000)) || fail "a million files fit into 64 MiB"
done
grep -q 'No space left' "$WORK/error" || fail "not ENOSPC: $(<"$WORK/error")"
say "$i times 500 small files fit into 64 MiB"
cmp "$folder/precious" "$WORK/precious" || fail "a full device hurt another file"
((i == 0)) || equal "$(tr -s ' ' <"$folder/small/0/77")" "file 77 of 0 " "a small file"
rm -r "$folder/small"
wait_until 20 space_is_back || fail "$(free_bytes "$folder") of $free bytes came back after rm -r"
cp "$WORK/precious" "$folder/again" && sync "$folder/again"
remount_filesystem disk
cmp "$folder/precious" "$WORK/precious" && cmp "$folder/again" "$WORK/precious"
unmount_filesystem disk
