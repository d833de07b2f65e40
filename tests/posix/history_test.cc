// The judge itself: histories that some order explains, and ones that none does.

#include "tests/posix/history.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "tests/posix/content_model.h"
#include "tests/posix/name_model.h"

namespace blobfs::posix {
namespace {

using Kind = NameOperation::Kind;
using Names = std::vector<NameOperation>;

bool linearizable(std::vector<Names> processes) {
    return History<NameModel>(std::move(processes)).is_linearizable(NameModel());
}
bool linearizable(std::vector<std::vector<ContentOperation>> processes) {
    return History<ContentModel>(std::move(processes)).is_linearizable(ContentModel());
}

NameOperation create(ino_t inode, std::int64_t begin, std::int64_t end, int error = 0,
                     std::uint8_t name = 0) {
    return {.kind = Kind::kCreateExclusively,
            .name = name,
            .error = error,
            .inode = inode,
            .begin_ns = begin,
            .end_ns = end};
}
NameOperation stat(ino_t inode, std::int64_t begin, std::int64_t end, std::uint8_t name = 0) {
    return {.kind = Kind::kStat,
            .name = name,
            .error = inode == 0 ? ENOENT : 0,
            .inode = inode,
            .begin_ns = begin,
            .end_ns = end};
}
NameOperation unlink(std::int64_t begin, std::int64_t end, int error = 0) {
    return {.kind = Kind::kUnlink, .error = error, .begin_ns = begin, .end_ns = end};
}
NameOperation rename(Kind kind, std::int64_t begin, std::int64_t end, int error = 0) {
    return {
        .kind = kind, .name = 0, .other_name = 1, .error = error, .begin_ns = begin, .end_ns = end};
}

TEST(History, NothingIsLinearizable) {
    EXPECT_TRUE(linearizable(std::vector<Names>{}));
    EXPECT_TRUE(linearizable(std::vector<Names>{{}, {}}));
}

TEST(History, WhatOverlapsMayHaveHappenedInEitherOrder) {
    EXPECT_TRUE(linearizable({{create(5, 0, 10)}, {stat(5, 2, 8)}}));
    EXPECT_TRUE(linearizable({{create(5, 0, 10)}, {stat(0, 2, 8)}}));
}

TEST(History, WhatReturnedBeforeACallCameBeforeIt) {
    EXPECT_TRUE(linearizable({{create(5, 0, 10)}, {stat(5, 11, 12)}}));
    EXPECT_FALSE(linearizable({{create(5, 0, 10)}, {stat(0, 11, 12)}}));
    EXPECT_FALSE(linearizable({{create(5, 20, 30)}, {stat(5, 11, 12)}}));
}

TEST(History, OfTwoExclusiveCreationsOneFails) {
    EXPECT_TRUE(linearizable({{create(5, 0, 10)}, {create(0, 0, 10, EEXIST)}}));
    EXPECT_FALSE(linearizable({{create(5, 0, 10)}, {create(6, 0, 10)}}));
    EXPECT_FALSE(linearizable({{create(0, 0, 10, EEXIST)}, {create(0, 0, 10, EEXIST)}}));
    // With an unlink between them both may succeed.
    EXPECT_TRUE(linearizable({{create(5, 0, 10)}, {create(6, 0, 10)}, {unlink(0, 10)}}));
}

TEST(History, WhatWasSeenIsNotUnseen) {
    // Two that look one after another while it is made.
    EXPECT_TRUE(linearizable({{create(5, 0, 100)}, {stat(0, 1, 2), stat(5, 3, 4)}}));
    EXPECT_FALSE(linearizable({{create(5, 0, 100)}, {stat(5, 1, 2), stat(0, 3, 4)}}));
    EXPECT_FALSE(linearizable({{create(5, 0, 100)}, {stat(5, 1, 2)}, {stat(0, 3, 4)}}));
}

TEST(History, ARenamedFileIsNeverNowhereAndNeverTwice) {
    const NameOperation moving = rename(Kind::kRename, 10, 100);
    const Names first = {create(5, 0, 1), moving};
    EXPECT_TRUE(linearizable({first, {stat(5, 20, 30, 0), stat(5, 40, 50, 1)}}));
    EXPECT_FALSE(linearizable({first, {stat(0, 20, 30, 0), stat(0, 40, 50, 1)}}));
    EXPECT_FALSE(linearizable({first, {stat(5, 20, 30, 1), stat(5, 40, 50, 0)}}));
}

TEST(History, RenameTellsWhatItMet) {
    const Names both = {create(5, 0, 1, 0, 0), create(6, 2, 3, 0, 1)};
    const auto with = [&](Kind kind, int error, ino_t first, ino_t second) {
        Names all = both;
        all.push_back(rename(kind, 10, 20, error));
        all.push_back(stat(first, 30, 31, 0));
        all.push_back(stat(second, 32, 33, 1));
        return linearizable({all});
    };
    EXPECT_TRUE(with(Kind::kRename, 0, 0, 5));
    EXPECT_FALSE(with(Kind::kRename, 0, 0, 6));
    EXPECT_FALSE(with(Kind::kRename, ENOENT, 5, 6));
    EXPECT_TRUE(with(Kind::kRenameWithoutReplacing, EEXIST, 5, 6));
    EXPECT_FALSE(with(Kind::kRenameWithoutReplacing, 0, 0, 5));
    EXPECT_TRUE(with(Kind::kExchange, 0, 6, 5));
    EXPECT_FALSE(with(Kind::kExchange, 0, 5, 6));
    EXPECT_FALSE(with(Kind::kExchange, ENOENT, 5, 6));
}

TEST(History, ALinkHasTwoMoments) {
    const auto link = [](std::int64_t begin, std::int64_t end, int error) -> Names {
        return {{.kind = Kind::kLinkFrom,
                 .process = 1,
                 .name = 0,
                 .error = error,
                 .begin_ns = begin,
                 .end_ns = end},
                {.kind = Kind::kLinkTo,
                 .process = 1,
                 .name = 1,
                 .error = error,
                 .begin_ns = begin,
                 .end_ns = end}};
    };
    const Names made = {create(5, 0, 1)};
    EXPECT_TRUE(linearizable({made, link(2, 3, 0), {stat(5, 4, 5, 1)}}));
    EXPECT_FALSE(linearizable({made, link(2, 3, 0), {stat(0, 4, 5, 1)}}));
    EXPECT_FALSE(linearizable({made, link(2, 3, EEXIST)}));
    EXPECT_FALSE(linearizable({made, link(2, 3, ENOENT)}));
    // The last name may go between the two, and is then not brought back.
    const Names removed = {create(5, 0, 1), unlink(2, 10)};
    EXPECT_TRUE(linearizable({removed, link(3, 9, ENOENT)}));
    EXPECT_TRUE(linearizable({removed, link(3, 9, 0)}));
    EXPECT_FALSE(linearizable({removed, link(11, 12, 0)}));
}

TEST(History, AMiscountedFileMayNotBeLinkedWhereThatIsExpected) {
    NameOperation second = create(5, 0, 1);
    second.kind = Kind::kLinkFrom;
    NameOperation third = second;
    third.kind = Kind::kLinkTo;
    third.name = 1;
    NameOperation refused_from = second;
    refused_from.error = ENOENT;
    NameOperation refused_to = refused_from;
    refused_to.kind = Kind::kLinkTo;
    refused_to.name = 2;
    NameOperation removed = unlink(0, 1);
    removed.name = 1;
    // One of two names is gone: the file has a name, and link(2) found none.
    const std::vector<Names> history = {
        {create(5, 0, 1), second, third, removed, refused_from, refused_to}};
    EXPECT_FALSE(History<NameModel>(history).is_linearizable(NameModel()));
    EXPECT_TRUE(History<NameModel>(history).is_linearizable(NameModel(true)));
    // None was ever taken away.
    const std::vector<Names> never = {{create(5, 0, 1), refused_from, refused_to}};
    EXPECT_FALSE(History<NameModel>(never).is_linearizable(NameModel(true)));
}

TEST(History, LinksAreCounted) {
    NameOperation count = stat(5, 10, 11);
    count.kind = Kind::kCount;
    count.links = 1;
    EXPECT_TRUE(linearizable({{create(5, 0, 1), count}}));
    count.links = 2;
    EXPECT_FALSE(linearizable({{create(5, 0, 1), count}}));
}

TEST(History, TellsHowFarItCame) {
    History<NameModel> history({{create(5, 0, 1), stat(5, 2, 3), stat(6, 4, 5)}});
    EXPECT_FALSE(history.is_linearizable(NameModel()));
    EXPECT_EQ(history.explained(), 2U);
}

TEST(History, AnOverwrittenByteIsNotReadAgain) {
    using Data = ContentOperation::Kind;
    const auto write = [](char byte, std::int64_t begin, std::int64_t end) {
        return ContentOperation{
            .kind = Data::kWrite, .byte = byte, .begin_ns = begin, .end_ns = end};
    };
    const auto read = [](char byte, std::int64_t begin, std::int64_t end) {
        return ContentOperation{
            .kind = Data::kRead, .byte = byte, .begin_ns = begin, .end_ns = end};
    };
    EXPECT_TRUE(linearizable({{write('a', 0, 9)}, {write('b', 0, 9)}, {read('a', 10, 11)}}));
    EXPECT_FALSE(linearizable(
        {{write('a', 0, 9)}, {write('b', 0, 9)}, {read('a', 10, 11)}, {read('b', 12, 13)}}));
    EXPECT_FALSE(linearizable({{write('a', 0, 1), write('b', 2, 3)}, {read('a', 4, 5)}}));
}

TEST(History, TwoAppendedBytesHaveTwoPlaces) {
    using Data = ContentOperation::Kind;
    const auto append = [](char byte, std::uint64_t size) {
        return ContentOperation{
            .kind = Data::kAppend, .byte = byte, .size = size, .begin_ns = 0, .end_ns = 9};
    };
    const auto log = [](std::string_view text) {
        ContentOperation read{
            .kind = Data::kReadLog, .size = text.size(), .begin_ns = 10, .end_ns = 11};
        text.copy(read.log.data(), text.size());
        return read;
    };
    EXPECT_TRUE(linearizable({{append('a', 2)}, {append('b', 1)}, {log("ba")}}));
    EXPECT_FALSE(linearizable({{append('a', 2)}, {append('b', 1)}, {log("ab")}}));
    EXPECT_FALSE(linearizable({{append('a', 1)}, {append('b', 1)}}));
    EXPECT_FALSE(linearizable({{append('a', 1)}, {append('b', 2)}, {log("a")}}));
}

}  // namespace
}  // namespace blobfs::posix
