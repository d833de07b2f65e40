#!/bin/bash
# A real tree of at least 20,000 files, copied onto the filesystem by cp -a, tar and rsync (or those
# that the arguments name), is the same after unmount and remount: contents, modes, owners, times,
# links, xattrs.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
tools=("$@")
(($#)) || tools=(cp tar rsync)
needs "${tools[@]}" getfattr setfattr b2sum

# The parts of /usr/include and /usr/share that have small files, and names of all kinds.
make_source() {
    local tree=$1 number
    mkdir "$tree" "$tree/usr" "$tree/made"
    find /usr/include /usr/share \( -type f -o -type l -o -type d \) -size -512k -readable -print0 \
        >"$WORK/all" 2>/dev/null || true
    head -z -n 23000 "$WORK/all" >"$WORK/list"
    tar -C / -cf - --null --no-recursion --files-from="$WORK/list" 2>/dev/null | tar -C "$tree/usr" -xf -
    cd "$tree/made"
    touch -- 'with space' $'with\nnewline' 'Grüße' '-dash' "$(printf 'n%.0s' {1..255})"
    ln -s /nowhere dangling
    ln -s 'with space' link
    seq 1 100000 >numbers
    ln numbers hard1 && mkdir sub && ln numbers sub/hard2
    truncate -s 100M sparse && printf x | dd of=sparse bs=1 seek=50M conv=notrunc status=none
    mkfifo fifo
    [[ $EUID == 0 ]] && mknod zero c 1 5 && mknod disk b 7 0 && chown 1234:5678 numbers
    for number in 0 1 2 4 5 6 7; do mkdir "mode$number" && touch "mode$number/f"; done
    chmod 4755 hard1 2>/dev/null && chmod 1777 mode7 && chmod 2775 mode6 && chmod 000 mode0/f && chmod 700 mode4
    touch -h -d '1970-01-02 03:04:05.123456789 UTC' dangling
    touch -d '2038-02-03 04:05:06.987654321 UTC' mode5/f
    touch -d '1969-12-31 23:00:00.5 UTC' mode2/f
    setfattr -n user.mime -v text/plain numbers 2>/dev/null || say "no user xattrs where $WORK is"
    setfattr -n user.comment -v "$(printf 'v%.0s' {1..1000})" mode5 2>/dev/null || true
    cd "$WORK"
    number=$(find "$tree" | wc -l)
    # A small machine has fewer: the rest is made.
    mkdir "$tree/more"
    while ((number < 21000)); do
        echo "$number" >"$tree/more/$number"
        number=$((number + 1))
    done
}

make_source "$WORK/source"
say "$(find "$WORK/source" -type f | wc -l) files, $(du -sm "$WORK/source" | cut -f1) MiB"
(($(find "$WORK/source" -type f | wc -l) >= 20000)) || fail "the source has fewer than 20,000 files"
manifest "$WORK/source" >"$WORK/expected"

make_filesystem disk 4G
mount_filesystem disk
folder=$(mount_of disk)
for tool in "${tools[@]}"; do
    copy=$folder/$tool
    start=$(date +%s.%N)
    case $tool in
    cp) cp -a "$WORK/source" "$copy" ;;
    tar) mkdir "$copy" && tar --xattrs -C "$WORK/source" -cf - . |
        tar --xattrs --xattrs-include='user.*' -C "$copy" -xpf - ;;
    rsync) rsync -aHX "$WORK/source/" "$copy/" ;;
    esac
    say "$tool took $(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }') s"
done
remount_filesystem disk
for tool in "${tools[@]}"; do
    manifest "$folder/$tool" >"$WORK/actual"
    same_manifest "$WORK/expected" "$WORK/actual" "the copy made by $tool differs"
    rm -rf "${folder:?}/$tool"
done
equal "$(find "$folder" -mindepth 1 | wc -l)" 0 "entries left after rm -rf"
unmount_filesystem disk
