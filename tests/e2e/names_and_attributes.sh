#!/bin/bash
# Hard links, symbolic links, special files, names of 255 bytes, rename, modes, owners, times, xattrs,
# append and truncate by the shell's tools, before and after a remount.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs getfattr setfattr
make_filesystem disk 256M
mount_filesystem disk
cd "$(mount_of disk)"

echo content >file
ln file hard
mkdir -p a/b/c
ln file a/b/c/hard
equal "$(stat -c %h file)" 3 "links"
equal "$(stat -c %i file)" "$(stat -c %i a/b/c/hard)" "inode numbers of hard links"
echo more >>hard
equal "$(<file)" $'content\nmore' "a write through another link"
rm file
equal "$(stat -c %h hard)" 2 "links after rm"
equal "$(stat -c %h a)" 3 "links of a directory"
! ln a dirlink 2>/dev/null || fail "a directory got a hard link"

ln -s a/b symlink
ln -s "$(printf 'x%.0s' {1..1000})" long-symlink
equal "$(readlink long-symlink | wc -c)" 1001 "length of a symbolic link"
equal "$(ls symlink)" c "through a symbolic link"
ln -s loop loop
! cat loop 2>"$WORK/error" || fail "a loop of symbolic links can be read"
grep -q 'Too many levels' "$WORK/error"

mkfifo fifo
(echo through >fifo &) && equal "$(<fifo)" through "what a FIFO carries"
"$BLOBFS_PROBE" mmap fifo 2>/dev/null && fail "a FIFO can be mapped"
if [[ $EUID == 0 ]]; then
    mknod null c 1 3 && mknod blk b 7 99
    equal "$(stat -c %t:%T null)" 1:3 "device numbers"
    equal "$(stat -c %F:%t:%T blk)" "block special file:7:63" "device numbers"
    chown 12345:54321 hard && equal "$(stat -c %u:%g hard)" 12345:54321 "owner"
    chmod 4755 hard && chown 1:1 hard && equal "$(stat -c %a hard)" 755 "set-id bits after chown"
fi

name255=$(printf 'n%.0s' {1..255})
umlauts=$(printf 'ü%.0s' {1..127})x
echo long >"$name255" && echo utf8 >"$umlauts"
! touch "${name255}n" 2>"$WORK/error" || fail "a name of 256 bytes was taken"
grep -q 'File name too long' "$WORK/error"
equal "$(<"$umlauts")" utf8 "a name of 255 bytes of UTF-8"
touch $'new\nline' ' ' $'\x01' '*'
[[ -e $'new\nline' && -e ' ' && -e $'\x01' && -e '*' ]] || fail "odd names"

echo one >one && echo two >two
mv one two && [[ ! -e one && $(<two) == one ]] || fail "rename replaces"
mkdir full empty && touch full/x
! mv -T empty full 2>/dev/null || fail "rename replaced a directory that is not empty"
mv -T full empty && [[ -e empty/x && ! -e full ]] || fail "rename replaces an empty directory"
! mv a a/b/c/a 2>/dev/null || fail "a directory moved into itself"
! mv -T two empty 2>/dev/null || fail "a file replaced a directory"
! rmdir empty 2>/dev/null || fail "rmdir of a directory that is not empty"
mkdir -p far/away && mv a far/away/a && [[ -e far/away/a/b/c/hard ]] || fail "a directory moved"
equal "$(stat -c %i far/away/a/..)" "$(stat -c %i far/away)" ".. of a moved directory"

for mode in 0 111 644 1777 2755 600; do
    touch "m$mode" && chmod "$mode" "m$mode" && equal "$(stat -c %a "m$mode")" "$mode" "mode"
done
(umask 027 && touch masked && mkdir maskeddir) && equal "$(stat -c %a masked maskeddir | xargs)" "640 750" umask
mkdir -m 2775 setgid && [[ $EUID != 0 ]] || { chgrp 777 setgid && touch setgid/f && equal "$(stat -c %g setgid/f)" 777 "group in a setgid directory"; }

touch -d '2001-02-03 04:05:06.123456789 UTC' times
equal "$(stat -c %.9Y times)" 981173106.123456789 "mtime in nanoseconds"
touch -a -d '1950-01-01 00:00:00 UTC' times && equal "$(stat -c %X times)" -631152000 "atime before 1970"
touch -d '2400-01-01 UTC' times2 && equal "$(stat -c %Y times2)" 13569465600 "mtime in 2400"
before=$(stat -c %.9Y far) && touch far/new && [[ $(stat -c %.9Y far) != "$before" ]] || fail "mtime of a directory"
before=$(stat -c %.9Z two) && chmod 600 two && [[ $(stat -c %.9Z two) != "$before" ]] || fail "ctime after chmod"

setfattr -n user.a -v 1 two
setfattr -n user.b -v "$(head -c 3000 /dev/zero | tr '\0' y)" two
setfattr -n user.empty two
setfattr -n user.a -v changed two
setfattr -n user.d -v dir far
equal "$(getfattr --only-values -n user.a two)" changed "xattr"
equal "$(getfattr --only-values -n user.b two | wc -c)" 3000 "large xattr"
setfattr -x user.b two
! setfattr -x user.b two 2>/dev/null || fail "a missing xattr was removed"
equal "$(getfattr two | grep -c '^user')" 2 "names of xattrs"

seq 1 10000 >numbers && truncate -s 100 numbers && equal "$(stat -c %s numbers)" 100 truncate
truncate -s 5000 numbers && equal "$(tail -c 4900 numbers | tr -d '\0' | wc -c)" 0 "zeroes after truncate up"
echo end >>numbers && equal "$(tail -c 4 numbers)" end append
printf MID | dd of=numbers bs=1 seek=2500 conv=notrunc status=none
equal "$(dd if=numbers bs=1 skip=2499 count=5 status=none | tr '\0' .)" .MID. "a write in the middle"
: >numbers && equal "$(stat -c %s numbers)" 0 "O_TRUNC"

# truncate(2) to the size that a file has: the times that are shown are those that are kept.
echo 123 >same && sync same && sleep 0.02
python3 -c 'import os; os.truncate("same", 4)'

snapshot() { manifest . && getfattr -h -d -m '^user\.' -- * 2>/dev/null && stat -c '%n %X' times && stat -c '%n %.9Y %.9Z' same && ls -A; }
snapshot >"$WORK/before"
cd "$WORK"
remount_filesystem disk
cd "$(mount_of disk)"
snapshot >"$WORK/after"
same_manifest "$WORK/before" "$WORK/after" "names and attributes after the remount"
cd "$WORK"
unmount_filesystem disk
