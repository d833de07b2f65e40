#!/bin/bash
# kill -9 of the daemon again and again, under fio (synchronous writes), tar, sqlite (both journals) and
# a writer that syncs, all at once. After each: the image is sound as it lies there (fsck.blobfs -n)
# and when mounted again every write that fio was told is durable is there, every transaction that
# was committed, every file that was synced, and what tar left comes from the archive.
# BLOBFS_KILL_ROUNDS: how often; BLOBFS_SEED: when.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_blobfs
needs fio python3 tar
rounds=${BLOBFS_KILL_ROUNDS:-3}
seed=${BLOBFS_SEED:-$(($(date +%s%N) / 1000 % 100000))}
RANDOM=$seed
say "BLOBFS_SEED=$seed BLOBFS_KILL_ROUNDS=$rounds"
make_filesystem disk 1G
folder=$(mount_of disk)

mkdir "$WORK/source"
tar -C /usr -cf - --ignore-failed-read include 2>/dev/null | head -c 60000000 | tar -C "$WORK/source" -xf - 2>/dev/null || true
tar -C "$WORK/source" -cf "$WORK/source.tar" .

# Each commits numbers, ascending, and tells those that are committed; then checks that they are there.
cat >"$WORK/transactions.py" <<'PYTHON'
import os, sqlite3, sys
command, path, log, journal = sys.argv[1:5]
if command == "commit":
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("pragma journal_mode=" + journal)
    db.execute("pragma synchronous=" + ("full" if journal == "wal" else "extra"))
    db.execute("create table if not exists t (n integer primary key, v blob)")
    n = db.execute("select coalesce(max(n), 0) from t").fetchone()[0]
    told = open(log, "a")
    # SQLite takes a directory that it cannot open for synced, so a commit that the kill interrupts there is told
    # as done. Nobody promised it: the filesystem is not connected then, or no longer where it was mounted.
    mounted = os.stat(os.path.dirname(path)).st_dev
    while True:
        n += 1
        db.execute("begin")
        db.execute("insert into t values (?, randomblob(?))", (n, 50 + n * 37 % 3000))
        db.execute("update t set v = randomblob(?) where n = ?", (n * 17 % 5000, max(1, n // 2)))
        db.execute("commit")
        if os.stat(os.path.dirname(path)).st_dev != mounted:
            break
        told.write(f"{n}\n")
        told.flush()
else:
    told = [int(line) for line in open(log)]
    db = sqlite3.connect(path)
    assert db.execute("pragma integrity_check").fetchone()[0] == "ok", "the database is damaged"
    count, last = db.execute("select count(*), max(n) from t").fetchone()
    assert count == last, f"{count} rows up to {last}"
    assert last >= told[-1], f"{told[-1]} was committed, {last} is the last"
    print(f"{last} transactions")
PYTHON

fio_load() { # file, further arguments
    local file=$1
    shift
    (cd "$WORK" && fio --name=written --filename="$file" --aux-path="$WORK" --ioengine=psync --rw=randwrite \
        --bsrange=4k-64k --blockalign=4k --size=200M --sync=dsync --fallocate=none --verify=crc32c \
        --verify_fatal=1 --randrepeat=1 --minimal --output="$WORK/log/fio.log" "$@")
}
lines_in() { [[ -f $1 && $(wc -l <"$1") -ge $2 ]]; }
all_work() {
    lines_in "$WORK/writer.$round" 5 && lines_in "$WORK/told.wal" $((told_wal + 3)) &&
        lines_in "$WORK/told.delete" $((told_delete + 3)) &&
        [[ $(stat -c %b "$folder/fio.$round") -gt 100 ]] && compgen -G "$folder/tar.$round/include/*" >/dev/null
}
lines_of() { [[ -f $1 ]] && wc -l <"$1" || echo 0; }
is_sound() { "$BLOBFS_FSCK" -n -f "$(image_of disk)" >"$WORK/log/disk.fsck" 2>&1; }

mount_filesystem disk
for ((round = 1; round <= rounds; round++)); do
    told_wal=$(lines_of "$WORK/told.wal")
    told_delete=$(lines_of "$WORK/told.delete")
    mkdir "$folder/writer.$round" "$folder/tar.$round"
    truncate -s 200M "$folder/fio.$round" # fio removes a file that is shorter than what it verifies
    sync "$folder/writer.$round" "$folder/tar.$round" "$folder/fio.$round"
    loads=()
    background "$BLOBFS_PROBE" crash-writer "$folder/writer.$round" "$WORK/writer.$round" 2>/dev/null
    loads+=($!)
    background tar -C "$folder/tar.$round" -xf "$WORK/source.tar" 2>/dev/null
    loads+=($!)
    for journal in wal delete; do
        background python3 "$WORK/transactions.py" commit "$folder/$journal.db" "$WORK/told.$journal" $journal 2>/dev/null
        loads+=($!)
    done
    rm -f "$WORK"/*verify.state
    background fio_load "$folder/fio.$round" --do_verify=0 --verify_state_save=1 2>/dev/null
    loads+=($!)
    wait_until $((60 * SLOW)) all_work || fail "round $round: not everything works"
    sleep "$(awk -v r=$RANDOM 'BEGIN { print (r % 1500) / 1000 }')"
    crash=$(date +%s.%N)
    kill_daemon disk
    wait "${loads[@]}" 2>/dev/null || true
    # The kernel may still be ending what the daemon had begun.
    wait_until $((20 * SLOW)) is_sound || fail "round $round: not sound: $(<"$WORK/log/disk.fsck")"
    mount_filesystem disk
    said="round $round:"
    for journal in wal delete; do
        result=$(python3 "$WORK/transactions.py" verify "$folder/$journal.db" "$WORK/told.$journal" $journal) ||
            fail "round $round: the database with journal $journal"
        said+=" $journal $result,"
    done
    result=$("$BLOBFS_PROBE" crash-verify "$folder/writer.$round" "$WORK/writer.$round" "$crash")
    said+=" writer: $result,"
    result=$("$BLOBFS_PROBE" partial-copy "$WORK/source" "$folder/tar.$round")
    said+=" tar: $result,"
    fio_load "$folder/fio.$round" --verify_only=1 --verify_state_load=1 2>"$WORK/log/fio-verify.log" ||
        fail "round $round: what fio was told is durable is not: $(cat "$WORK/log/fio-verify.log" "$WORK/log/fio.log")"
    say "$said fio verified"
    rm -rf "$folder/writer.$round" "$folder/tar.$round" "$folder/fio.$round"
done
unmount_filesystem disk
