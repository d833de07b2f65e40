#!/bin/bash
# sqlite3 keeps a database on the filesystem: rollback journal and write-ahead log, many small
# transactions, VACUUM; integrity_check is ok before and after a remount, and two processes that
# write at the same time exclude each other.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs sqlite3
make_filesystem disk 1G
mount_filesystem disk
folder=$(mount_of disk)

workload() { # database, journal mode
    {
        echo "PRAGMA journal_mode=$2; PRAGMA synchronous=FULL;"
        echo "CREATE TABLE t(id INTEGER PRIMARY KEY, k INTEGER, v BLOB); CREATE INDEX tk ON t(k);"
        echo "BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<20000)"
        echo "INSERT INTO t SELECT i, i*7919 % 10007, printf('%0*d', 10 + i % 300, i) FROM n; COMMIT;"
        local i
        for i in $(seq 1 300); do
            echo "BEGIN; UPDATE t SET v = v || 'x$i' WHERE k = $i; DELETE FROM t WHERE id = $((i * 13));"
            echo "INSERT INTO t VALUES($((100000 + i)), $i, randomblob($((i * 20)))); COMMIT;"
        done
        echo "VACUUM; PRAGMA integrity_check;"
    } >"$WORK/$2.sql"
    sqlite3 -bail "$1" <"$WORK/$2.sql" >"$WORK/$2.out"
    equal "$(tail -n 1 "$WORK/$2.out")" ok "integrity_check with journal mode $2"
}
summary() { sqlite3 "$1" "SELECT count(*), sum(id), sum(length(v)), max(k) FROM t;"; }

for mode in delete wal; do workload "$folder/$mode.db" "$mode"; done
before=$(summary "$folder/delete.db" && summary "$folder/wal.db")

# Two writers: locks hold, no change is lost.
sqlite3 "$folder/delete.db" "CREATE TABLE c(n INTEGER); INSERT INTO c VALUES(0);"
count() {
    local i
    for i in $(seq 1 60); do
        sqlite3 -cmd '.timeout 60000' "$folder/delete.db" "UPDATE c SET n = n + 1;"
    done
}
count & first=$!
count & second=$!
wait "$first" && wait "$second"
equal "$(sqlite3 "$folder/delete.db" 'SELECT n FROM c')" 120 "updates by two processes"

remount_filesystem disk
for mode in delete wal; do
    equal "$(sqlite3 "$folder/$mode.db" 'PRAGMA integrity_check')" ok "integrity_check after the remount"
done
equal "$(summary "$folder/delete.db" && summary "$folder/wal.db")" "$before" "contents after the remount"
unmount_filesystem disk
