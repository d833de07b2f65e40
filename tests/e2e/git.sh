#!/bin/bash
# git works: clone, commit, branch, merge, gc, and fsck finds nothing wrong, also after a remount.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs git
export GIT_CONFIG_GLOBAL=$WORK/gitconfig GIT_CONFIG_NOSYSTEM=1
git config --global user.name Tester
git config --global user.email tester@example.org
git config --global safe.directory '*'
git config --global init.defaultBranch main
git config --global core.fsync all

# This project's own history where there is one, else a repository made of its sources.
origin=$WORK/origin
if git -C "$BLOBFS_SOURCE" rev-parse HEAD >/dev/null 2>&1; then
    git clone -q --bare "file://$(git -C "$BLOBFS_SOURCE" rev-parse --path-format=absolute --git-common-dir)" "$origin"
    head=$(git -C "$BLOBFS_SOURCE" rev-parse HEAD)
    git -C "$origin" cat-file -e "$head" 2>/dev/null || head=$(git -C "$origin" rev-parse HEAD)
else
    git init -q "$WORK/sources"
    cp -a "$BLOBFS_SOURCE"/{driver,blobstore,fs,mkfs,tests} "$WORK/sources"
    git -C "$WORK/sources" add -A && git -C "$WORK/sources" commit -qm sources
    git clone -q --bare "file://$WORK/sources" "$origin"
    head=$(git -C "$origin" rev-parse HEAD)
fi

make_filesystem disk 1G
mount_filesystem disk
repository="$(mount_of disk)/repository"
git clone -q "file://$origin" "$repository"
cd "$repository"
git checkout -qB work "$head"
for number in $(seq 1 30); do
    echo "line $number" >>notes.txt
    seq "$number" 2000 >"numbers$number.txt"
    git add -A
    git commit -qm "commit $number"
done
git checkout -qb side HEAD~10
echo side >side.txt && git add -A && git commit -qm side
git checkout -q work
git merge -q --no-edit side
git tag before
git gc -q
git fsck --full --strict --no-dangling
expected=$(git rev-parse HEAD 'HEAD^{tree}')
cd "$WORK"
remount_filesystem disk
cd "$repository"
git fsck --full --strict --no-dangling
equal "$(git rev-parse HEAD 'HEAD^{tree}')" "$expected" "HEAD after the remount"
equal "$(git status --porcelain)" "" "git status after the remount"
git clone -q . ../second
git -C ../second fsck --full
cd "$WORK"
unmount_filesystem disk
