#include "blobstore/page.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace blobfs::blobstore {
namespace {

constexpr std::uint64_t kBlockCount = 1 << 20;

// A page in memory of exactly its size, so that the sanitizer sees every byte beyond.
class OwnedPage {
  public:
    OwnedPage(std::uint32_t page_bytes, std::uint32_t level) : bytes_(page_bytes), page_(bytes_) {
        page_.format(level);
        page_.header().generation = 7;
        page_.header().block = 4096;
    }
    OwnedPage(const OwnedPage& other) : bytes_(other.bytes_), page_(bytes_) {}
    OwnedPage& operator=(const OwnedPage&) = delete;
    Page& operator*() { return page_; }
    Page* operator->() { return &page_; }
    std::vector<std::byte>& bytes() { return bytes_; }
    [[nodiscard]] const char* damage(std::uint32_t level) const {
        return validate_page(bytes_, {.level = level, .block_count = kBlockCount});
    }

  private:
    std::vector<std::byte> bytes_;
    Page page_;
};

using Model = std::map<std::string, std::string>;

// Keys as the blobstore has them, and some that are not: few distinct beginnings, many lengths.
std::string random_key(std::mt19937_64& random) {
    std::string key;
    switch (random() % 3) {
        case 0:
            key.assign(Key(BlobId{random() % 3}, KeyKind::kExtent, random() % 300).view());
            break;
        case 1:
            key.assign(1 + random() % 20, static_cast<char>('a' + random() % 2));
            key.push_back(static_cast<char>(random() % 4));
            break;
        default:
            for (std::size_t i = 1 + random() % (random() % 8 == 0 ? kMaxKeyBytes : 12); i > 0;
                 --i) {
                key.push_back(static_cast<char>(random() % 3));
            }
    }
    return key;
}

std::string random_value(std::mt19937_64& random, std::size_t limit) {
    std::string value(random() % 16 == 0 ? random() % (limit + 1) : random() % 40, '\0');
    for (char& c : value) c = static_cast<char>(random());
    return value;
}

void expect_equal(const Page& page, const Model& model) {
    ASSERT_EQ(page.size(), model.size());
    std::size_t i = 0;
    for (const auto& [key, value] : model) {
        ASSERT_EQ(page.key(i), key);
        ASSERT_EQ(page.value(i), value);
        ++i;
    }
}

void expect_finds_as(const Page& page, const Model& model, const std::string& key) {
    const auto at = page.find(key);
    const auto lower = model.lower_bound(key);
    ASSERT_EQ(at.index, static_cast<std::size_t>(std::distance(model.begin(), lower)));
    ASSERT_EQ(at.found, lower != model.end() && lower->first == key);
}

class PageOfSize : public testing::TestWithParam<std::uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Page, PageOfSize, testing::Values(4096u, 8192u, 16384u));

TEST_P(PageOfSize, BehavesAsAnOrderedMapUnderRandomChanges) {
    const std::uint32_t page_bytes = GetParam();
    for (std::uint64_t seed = 1; seed <= 12; ++seed) {
        SCOPED_TRACE(seed);
        std::mt19937_64 random(seed * 77 + page_bytes);
        OwnedPage page(page_bytes, 0);
        Model model;
        std::size_t refused = 0;
        for (int step = 0; step < 1500; ++step) {
            const std::string key = random_key(random);
            ASSERT_NO_FATAL_FAILURE(expect_finds_as(*page, model, key));
            const auto at = page->find(key);
            const std::string value = random_value(random, max_value_bytes(page_bytes));
            const std::size_t room = page_bytes - page->used_bytes();
            if (random() % 100 < (step / 300 % 2 == 0 ? 30u : 70u) && at.found) {
                page->erase(at.index);
                model.erase(key);
            } else if (at.found) {
                const std::size_t old = model[key].size();
                const bool done = page->replace(at.index, value);
                ASSERT_EQ(done, value.size() <= old || value.size() - old <= room);
                if (done) model[key] = value;
            } else {
                const bool done = page->insert(at.index, key, value);
                ASSERT_EQ(done, key.size() + value.size() + kEntryOverheadBytes <= room);
                if (done) model[key] = value;
                refused += !done;
            }
            if (!model.empty()) {
                ASSERT_STREQ(page.damage(0), nullptr);
            }
            if (step % 50 == 0) {
                ASSERT_NO_FATAL_FAILURE(expect_equal(*page, model));
            }
        }
        ASSERT_NO_FATAL_FAILURE(expect_equal(*page, model));
        EXPECT_GT(refused, 0u);
    }
}

TEST_P(PageOfSize, SplitAndMergeKeepEveryEntry) {
    const std::uint32_t page_bytes = GetParam();
    for (std::uint64_t seed = 1; seed <= 150; ++seed) {
        SCOPED_TRACE(seed);
        std::mt19937_64 random(seed * 31 + page_bytes);
        OwnedPage left(page_bytes, 0);
        OwnedPage right(page_bytes, 0);
        Model model;
        for (;;) {
            const std::string key = random_key(random);
            const auto at = left->find(key);
            if (at.found) continue;
            const std::string value = random_value(random, max_value_bytes(page_bytes));
            model[key] = value;
            if (left->insert(at.index, key, value)) continue;
            const std::size_t middle = left->middle(at.index, key, value);
            const Key separator = left->split(*right, at.index, key, value, middle);
            right->header().generation = 7;
            ASSERT_LT(left->key(left->size() - 1), separator.view());
            ASSERT_LE(separator.view(), right->key(0));
            // No shorter one would do.
            const Key shorter(separator.view().substr(0, separator.view().size() - 1));
            ASSERT_LE(shorter.view(), left->key(left->size() - 1));
            break;
        }
        ASSERT_STREQ(left.damage(0), nullptr);
        ASSERT_STREQ(right.damage(0), nullptr);
        ASSERT_LT(left->used_bytes(), page_bytes * 7 / 8);
        ASSERT_LT(right->used_bytes(), page_bytes * 7 / 8);
        for (const auto& [key, value] : model) {
            const auto in_left = left->find(key);
            const auto in_right = right->find(key);
            ASSERT_NE(in_left.found, in_right.found);
            ASSERT_EQ(in_left.found ? left->value(in_left.index) : right->value(in_right.index),
                      value);
        }
        while (Page::merged_bytes(*left, {}, *right) > page_bytes) {
            Page& page = random() % 2 == 0 ? *left : *right;
            if (page.size() == 1) continue;
            const std::size_t index = random() % page.size();
            model.erase(std::string(page.key(index)));
            page.erase(index);
        }
        OwnedPage& into = seed % 2 == 0 ? left : right;
        into->merge(*left, {}, *right);
        ASSERT_NO_FATAL_FAILURE(expect_equal(*into, model));
        ASSERT_STREQ(into.damage(0), nullptr);
    }
}

PagePointer child_number(std::uint64_t number) {
    return {.block = 300 + number * 4, .generation = number % 7, .checksum = number * 977};
}

// An interior page against a map from the separators to the children's numbers.
TEST_P(PageOfSize, InteriorPageLeadsEveryKeyToItsChild) {
    const std::uint32_t page_bytes = GetParam();
    for (std::uint64_t seed = 1; seed <= 30; ++seed) {
        SCOPED_TRACE(seed);
        std::mt19937_64 random(seed);
        OwnedPage page(page_bytes, 1);
        std::map<std::string, std::uint64_t> model;
        std::uint64_t number = 0;
        ASSERT_TRUE(page->insert(0, {}, bytes_of(child_number(number))));
        model[""] = number++;
        for (int step = 0; step < 600; ++step) {
            const std::string key = random_key(random);
            const auto at = page->find(key);
            if (random() % 4 == 0 && page->size() > 1) {
                const std::size_t index = random() % page->size();
                page->erase(index);
                auto victim = std::next(model.begin(), static_cast<std::ptrdiff_t>(index));
                if (index == 0) {
                    const std::uint64_t second = std::next(victim)->second;
                    model.erase(std::next(victim));
                    victim->second = second;
                } else {
                    model.erase(victim);
                }
            } else if (!at.found && page->insert(at.index, key, bytes_of(child_number(number)))) {
                model[key] = number++;
            } else {
                page->set_child(at.index - 1, child_number(number));
                std::next(model.begin(), static_cast<std::ptrdiff_t>(at.index - 1))->second =
                    number++;
            }
            ASSERT_STREQ(page.damage(1), nullptr);
            const std::string probe = random_key(random);
            ASSERT_EQ(page->child(page->child_of(probe)),
                      child_number(std::prev(model.upper_bound(probe))->second));
            const auto below = model.lower_bound(probe);
            ASSERT_EQ(
                page->child(page->child_below(probe)),
                child_number(below == model.begin() ? below->second : std::prev(below)->second));
        }
    }
}

TEST_P(PageOfSize, InteriorSplitMovesTheSeparatorUpAndMergeBringsItBack) {
    const std::uint32_t page_bytes = GetParam();
    std::mt19937_64 random(5);
    for (int round = 0; round < 40; ++round) {
        OwnedPage left(page_bytes, 2);
        OwnedPage right(page_bytes, 2);
        ASSERT_TRUE(left->insert(0, {}, bytes_of(child_number(0))));
        std::vector<std::string> keys;
        Key separator;
        for (;;) {
            const std::string key = random_key(random);
            const auto at = left->find(key);
            if (at.found) continue;
            keys.push_back(key);
            const PagePointer child = child_number(keys.size());
            if (left->insert(at.index, key, bytes_of(child))) continue;
            separator = left->split(*right, at.index, key, bytes_of(child),
                                    left->middle(at.index, key, bytes_of(child)));
            right->header().generation = 7;
            break;
        }
        std::sort(keys.begin(), keys.end());
        ASSERT_STREQ(left.damage(2), nullptr);
        ASSERT_STREQ(right.damage(2), nullptr);
        ASSERT_EQ(left->size() + right->size(), keys.size() + 1);
        ASSERT_EQ(separator.view(), keys[left->size() - 1]);
        left->erase(left->size() - 1);
        keys.erase(keys.begin() + static_cast<std::ptrdiff_t>(left->size()) - 1);
        while (Page::merged_bytes(*left, separator, *right) > page_bytes) {
            const std::size_t last = right->size() - 1;
            right->erase(last);
            keys.pop_back();
        }
        OwnedPage& into = round % 2 == 0 ? left : right;
        into->merge(*left, separator, *right);
        ASSERT_STREQ(into.damage(2), nullptr);
        ASSERT_EQ(into->size(), keys.size() + 1);
        for (std::size_t i = 0; i < keys.size(); ++i) ASSERT_EQ(into->key(i + 1), keys[i]);
    }
}

TEST(Page, AscendingSplitLeavesTheLeftPageFull) {
    OwnedPage left(4096, 0);
    OwnedPage right(4096, 0);
    for (std::uint64_t i = 0;; ++i) {
        const Key key(BlobId{9}, KeyKind::kExtent, i);
        if (left->insert(left->size(), key, "sixteen bytes...")) continue;
        const std::size_t count = left->size();
        const Key separator = left->split(*right, count, key, "sixteen bytes...", count);
        EXPECT_EQ(left->size(), count);
        EXPECT_EQ(right->size(), 1u);
        EXPECT_EQ(separator.view(), key.view());
        return;
    }
}

TEST(Page, KeysThatDifferOnlyBehindTheHintAreFound) {
    OwnedPage page(4096, 0);
    Model model;
    for (int i = 0; i < 60; ++i) {
        std::string key = "same--" + std::string(1, static_cast<char>('a' + i / 20));
        key += std::string(8, 'x') + std::to_string(i);
        model[key] = std::to_string(i);
        ASSERT_TRUE(page->insert(page->find(key).index, key, model[key]));
    }
    for (const auto& [key, value] : model) {
        ASSERT_NO_FATAL_FAILURE(expect_finds_as(*page, model, key));
        ASSERT_NO_FATAL_FAILURE(expect_finds_as(*page, model, key + '\0'));
        ASSERT_NO_FATAL_FAILURE(expect_finds_as(*page, model, key.substr(0, key.size() - 1)));
        ASSERT_NO_FATAL_FAILURE(expect_finds_as(*page, model, key.substr(0, 7)));
        ASSERT_NO_FATAL_FAILURE(expect_finds_as(*page, model, key.substr(0, 3)));
    }
}

// Reads, and in a copy changes, everything that a page lets one reach.
void use_all_of(const std::vector<std::byte>& bytes, std::mt19937_64& random) {
    std::vector<std::byte> copy = bytes;
    Page page(copy);
    std::size_t sum = 0;
    for (std::size_t i = 0; i < page.size(); ++i) {
        for (const char c : page.key(i)) sum += static_cast<unsigned char>(c);
        for (const char c : page.value(i)) sum += static_cast<unsigned char>(c);
        if (page.leaf() || i > 0) {
            ASSERT_TRUE(page.find(page.key(i)).found);
        }
    }
    ASSERT_GT(sum + 1, 0u);
    for (int i = 0; i < 20; ++i) {
        const std::string key = random_key(random);
        const auto at = page.find(key);
        if (page.leaf()) {
            if (at.found) {
                page.replace(at.index, std::string(random() % 200, 'v'));
            } else if (!page.insert(at.index, key, "value")) {
                std::vector<std::byte> other(bytes.size());
                Page right(other);
                page.split(right, at.index, key, "value", page.middle(at.index, key, "value"));
            }
        }
        if (page.size() > 1) page.erase(random() % page.size());
    }
}

TEST_P(PageOfSize, MutatedPagesAreRejectedOrHarmless) {
    const std::uint32_t page_bytes = GetParam();
    std::size_t accepted = 0;
    std::size_t rejected = 0;
    for (std::uint64_t seed = 1; seed <= 40; ++seed) {
        SCOPED_TRACE(seed);
        std::mt19937_64 random(seed * 1001 + page_bytes);
        const std::uint32_t level = seed % 3 == 0 ? 1 : 0;
        OwnedPage page(page_bytes, level);
        if (level == 1) {
            ASSERT_TRUE(page->insert(0, {}, bytes_of(child_number(0))));
        }
        for (int i = 0; i < 300; ++i) {
            const std::string key = random_key(random);
            const auto at = page->find(key);
            if (at.found && random() % 3 == 0 && page->size() > 2) {
                page->erase(at.index);
            } else if (!at.found) {
                (void)page->insert(at.index, key,
                                   level == 1 ? std::string(bytes_of(child_number(seed)))
                                              : random_value(random, 100));
            }
        }
        ASSERT_STREQ(page.damage(level), nullptr);
        const std::size_t slots_end = sizeof(PageHeader) + page->size() * sizeof(PageSlot);
        for (int i = 0; i < 300; ++i) {
            OwnedPage hostile = page;
            for (std::size_t n = 1 + random() % 4; n > 0; --n) {
                // Mostly where the structure is: header, slots, sizes of values.
                std::size_t at = random() % page_bytes;
                if (random() % 2 == 0) at = random() % slots_end;
                if (random() % 4 == 0) at = 56 + random() % 8;
                if (random() % 4 == 0) {
                    PageSlot slot;
                    std::memcpy(&slot,
                                hostile.bytes().data() + sizeof(PageHeader) +
                                    random() % page->size() * sizeof(PageSlot),
                                sizeof(slot));
                    at = std::min<std::size_t>(slot.offset + random() % 2, page_bytes - 1);
                }
                hostile.bytes()[at] =
                    static_cast<std::byte>(random() % 2 == 0 ? random() : 1ull << random() % 8);
            }
            if (hostile.damage(level) != nullptr) {
                ++rejected;
                continue;
            }
            ++accepted;
            ASSERT_NO_FATAL_FAILURE(use_all_of(hostile.bytes(), random));
        }
    }
    EXPECT_GT(accepted, 100u);
    EXPECT_GT(rejected, 1000u);
}

TEST_P(PageOfSize, RandomBytesAreRejected) {
    std::mt19937_64 random(3);
    std::vector<std::byte> bytes(GetParam());
    for (int i = 0; i < 2000; ++i) {
        for (std::byte& b : bytes) b = static_cast<std::byte>(random() % (i % 2 == 0 ? 256 : 3));
        // The header as it would have to be, so that more than the kind is put to the test.
        PageHeader header;
        std::memcpy(&header, bytes.data(), sizeof(header));
        header.kind = PageKind::kLeaf;
        header.level = 0;
        header.reserved = 0;
        header.map_index = 0;
        header.slot_count = static_cast<std::uint16_t>(random() % 100);
        header.content_start = static_cast<std::uint16_t>(64 + random() % GetParam());
        std::memcpy(bytes.data(), &header, sizeof(header));
        ASSERT_STRNE(validate_page(bytes, {.level = 0, .block_count = kBlockCount}), nullptr);
    }
}

// One valid leaf, and one thing wrong with it.
class DamagedPage : public testing::Test {
  protected:
    DamagedPage() : page_(4096, 0) {
        for (const char* key : {"alpha", "beta", "gamma"}) {
            EXPECT_TRUE(page_->insert(page_->size(), key, "value"));
        }
        EXPECT_STREQ(page_.damage(0), nullptr);
    }
    PageSlot& slot(std::size_t index) {
        return reinterpret_cast<PageSlot*>(page_.bytes().data() + sizeof(PageHeader))[index];
    }
    std::string damage() {
        const char* what = page_.damage(0);
        return what == nullptr ? "none" : what;
    }
    OwnedPage page_;
};

TEST_F(DamagedPage, WrongKindOrLevel) {
    EXPECT_STREQ(page_.damage(1), "tree page: kind");
    page_->header().level = 3;
    EXPECT_EQ(damage(), "tree page: level");
    page_->header().kind = PageKind::kBitmap;
    EXPECT_EQ(damage(), "tree page: kind");
}
TEST_F(DamagedPage, NoEntries) {
    page_->header().slot_count = 0;
    EXPECT_EQ(damage(), "tree page: no entries");
}
TEST_F(DamagedPage, MoreSlotsThanRoom) {
    page_->header().slot_count = 0xffff;
    EXPECT_EQ(damage(), "tree page: start of contents");
}
TEST_F(DamagedPage, EntryInTheHeader) {
    slot(1).offset = 3;
    EXPECT_EQ(damage(), "tree page: offset of an entry");
}
TEST_F(DamagedPage, EntryAtTheLastByte) {
    slot(1).offset = 4095;
    EXPECT_EQ(damage(), "tree page: offset of an entry");
}
TEST_F(DamagedPage, EntryBeyondTheEnd) {
    slot(0).key_bytes = 200;
    EXPECT_EQ(damage(), "tree page: end of an entry");
}
TEST_F(DamagedPage, KeyTooLong) {
    slot(2).key_bytes = kMaxKeyBytes + 1;
    EXPECT_EQ(damage(), "tree page: size of a key");
}
TEST_F(DamagedPage, EmptyKey) {
    slot(2).key_bytes = 0;
    EXPECT_EQ(damage(), "tree page: size of a key");
}
TEST_F(DamagedPage, ValueTooLong) {
    const std::uint16_t bytes = max_value_bytes(4096) + 1;
    std::memcpy(page_.bytes().data() + slot(2).offset, &bytes, 2);
    EXPECT_EQ(damage(), "tree page: size of a value");
}
TEST_F(DamagedPage, TwoSlotsOfOneEntry) {
    slot(1) = slot(0);
    EXPECT_EQ(damage(), "tree page: entries overlap");
}
TEST_F(DamagedPage, WrongGarbage) {
    page_->header().garbage_bytes = 1;
    EXPECT_EQ(damage(), "tree page: sum of entries");
}
TEST_F(DamagedPage, KeysOutOfOrder) {
    std::swap(slot(0), slot(1));
    EXPECT_EQ(damage(), "tree page: order of keys");
}
TEST_F(DamagedPage, WrongHint) {
    slot(1).hint ^= 1;
    EXPECT_EQ(damage(), "tree page: hint");
}
TEST_F(DamagedPage, WrongPrefix) {
    page_->header().prefix_bytes = 1;
    EXPECT_EQ(damage(), "tree page: prefix");
}
TEST_F(DamagedPage, ReservedBytesInUse) {
    page_->header().reserved = 1;
    EXPECT_EQ(damage(), "tree page: reserved fields");
}

TEST(DamagedInteriorPage, ChildrenOutsideOfTheDevice) {
    for (const std::uint64_t block : {std::uint64_t{0}, kLogStartBlock - 1, kBlockCount,
                                      ~std::uint64_t{0}, std::uint64_t{4096}}) {
        OwnedPage page(4096, 1);
        ASSERT_TRUE(page->insert(0, {}, bytes_of(PagePointer{block, 1, 1})));
        EXPECT_STREQ(page.damage(1), "tree page: address of a child") << block;
    }
    OwnedPage page(8192, 1);
    ASSERT_TRUE(page->insert(0, {}, bytes_of(PagePointer{kBlockCount - 1, 1, 1})));
    EXPECT_STREQ(page.damage(1), "tree page: address of a child");
}
TEST(DamagedInteriorPage, ChildNewerThanItsParent) {
    OwnedPage page(4096, 1);
    ASSERT_TRUE(page->insert(0, {}, bytes_of(PagePointer{300, 8, 1})));
    EXPECT_STREQ(page.damage(1), "tree page: generation of a child");
}
TEST(DamagedInteriorPage, KeyOfTheFirstChild) {
    OwnedPage page(4096, 1);
    ASSERT_TRUE(page->insert(0, "key", bytes_of(PagePointer{300, 1, 1})));
    EXPECT_STREQ(page.damage(1), "tree page: size of a key");
}

}  // namespace
}  // namespace blobfs::blobstore
