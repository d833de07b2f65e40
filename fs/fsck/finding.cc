#include "fs/fsck/finding.h"

#include <array>

#include "driver/base/check.h"

namespace blobfs::fsck {

namespace {

// In the order of Problem.
constexpr std::array<ProblemInfo, kProblems> kInfos = {{
    {"superblock-slot", "write the slot from the other one", true, false},
    {"superblock-copy", "write the copy from the slots", true, false},
    {"superblocks-lost", "write both slots from the copy", false, false},
    {"superblock-counts", "write the right numbers into both superblocks", true, false},
    {"log-damaged", "drop the rest of the log", false, true},
    {"tree-page", "rebuild the tree from what is left of it on the device", false, true},
    {"tree-page-twice", "rebuild the tree from what is left of it on the device", false, true},
    {"map-page", "rebuild the allocation map", true, true},
    {"map-counts", "rebuild the allocation map", true, true},
    {"blocks-not-marked", "rebuild the allocation map", true, true},
    {"blocks-leaked", "free them", true, false},
    {"blocks-twice", "give the second one a copy of its own", false, true},
    {"blocks-of-metadata", "take them from the file, which reads as zeroes there", false, true},
    {"strange-key", "remove the key", false, false},
    {"no-attributes", "make attributes for it", false, true},
    {"bad-attributes", "make attributes for it", false, true},
    {"block-count", "set the count", true, false},
    {"bad-extent", "remove it; the file reads as zeroes there", false, true},
    {"extents-overlap", "remove the second one", false, true},
    {"extent-behind-end", "free what lies behind the end", true, false},
    {"shared-extent", "clear the mark", true, false},
    {"inline-and-extents", "remove the inline data", false, false},
    {"bad-inline-data", "remove it", false, false},
    {"bad-xattr", "remove the extended attribute", false, false},
    {"bad-record", "remove the record", false, false},
    {"bad-orphan", "remove it from the list", true, false},
    {"no-root", "make a root directory", false, false},
    {"bad-inode", "make new attributes, keep the content", false, false},
    {"bad-entry", "remove the entry", false, false},
    {"entry-place", "move the entry to where it belongs", true, false},
    {"name-twice", "give the second one another name", false, false},
    {"dangling-entry", "remove the name", false, false},
    {"entry-type", "correct the type", true, false},
    {"directory-twice", "remove the second name", false, false},
    {"directory-ring", "cut the ring", false, false},
    {"parent", "correct \"..\"", true, false},
    {"directory-counts", "correct the counts", true, false},
    {"link-count", "set the link count", true, false},
    {"orphan-with-name", "take it off the list of files to delete", true, false},
    {"lost-inode", "give it a name in lost+found", true, false},
    {"strange-records", "remove the records", false, false},
    {"bad-target", "remove the symbolic link", false, false},
    {"xattr-flag", "correct the flag", true, false},
    {"bad-acl", "remove the access control list", false, false},
    {"acl-mode", "set the mode that the list says", true, false},
}};

}  // namespace

const ProblemInfo& info_of(Problem problem) {
    CHECK(static_cast<std::size_t>(problem) < kProblems);
    return kInfos[static_cast<std::size_t>(problem)];
}

void Findings::add(Finding finding) {
    ++total_;
    ++counts_[static_cast<std::size_t>(finding.problem)];
    if (list_.size() < kMost) list_.push_back(std::move(finding));
}

}  // namespace blobfs::fsck
