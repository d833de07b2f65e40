#include <cstring>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/blobstore/space_allocator_fixture.h"

namespace blobfs::blobstore {
namespace {

// Random operations against sets of blocks. Nothing is handed out that the durable root, the root
// being written, memory, or the log since the last durable root needs; what a reopened map shows
// used is just what was needed when its checkpoint froze.
class SpaceAllocatorModel : public SpaceAllocatorTest {
  protected:
    using Blocks = std::set<std::uint64_t>;

    static void insert(Blocks& blocks, const Run& run) {
        for (std::uint64_t b = run.first(); b < run.end(); ++b) blocks.insert(b);
    }
    static void erase(Blocks& blocks, const Run& run) {
        for (std::uint64_t b = run.first(); b < run.end(); ++b) blocks.erase(b);
    }
    void expect_handed_out(const Run& run, const char* what) {
        for (std::uint64_t b = run.first(); b < run.end(); ++b) {
            ASSERT_GE(b, kLogEnd) << what;
            ASSERT_LT(b, shape_.blocks) << what;
            ASSERT_EQ(live_.count(b), 0u) << what << " " << b << " is in use";
            ASSERT_EQ(reserved_blocks_.count(b), 0u) << what << " " << b << " is reserved";
            ASSERT_EQ(durable_.count(b), 0u) << what << " " << b << " is of the durable root";
            ASSERT_EQ(frozen_.count(b), 0u) << what << " " << b << " is of the root being written";
            ASSERT_EQ(freed_.count(b), 0u) << what << " " << b << " was freed since the freeze";
            ASSERT_EQ(freed_frozen_.count(b), 0u) << what << " " << b << " was freed before";
        }
    }
    [[nodiscard]] Run page(std::uint64_t block) const {
        return Run{BlockIndex{block}, shape_.page_bytes / kBlockBytes};
    }

    void step(std::mt19937& random) {
        switch (random() % 16) {
            case 0:
            case 1:
            case 2:
            case 3: {
                std::uint64_t near = 0;
                if (random() % 2 == 0 && !runs_.empty())
                    near = runs_[random() % runs_.size()].end();
                if (random() % 8 == 0) near = random() % shape_.blocks;
                const std::uint64_t blocks =
                    random() % 4 == 0 ? random() % 3000 + 1 : random() % 40 + 1;
                auto reservation = reserve(blocks, near);
                if (!reservation) {
                    ASSERT_EQ(reservation.error().code, Errc::kNoSpace);
                    break;
                }
                ASSERT_NO_FATAL_FAILURE(expect_handed_out(reservation->run(), "data"));
                insert(reserved_blocks_, reservation->run());
                reservations_.push_back(std::move(*reservation));
                break;
            }
            case 4:
            case 5:
            case 6: {
                if (reservations_.empty()) break;
                std::swap(reservations_[random() % reservations_.size()], reservations_.back());
                const Run run = reservations_.back().run();
                erase(reserved_blocks_, run);
                if (random() % 4 != 0) {
                    space_->commit(std::move(reservations_.back()));
                    insert(live_, run);
                    runs_.push_back(run);
                }
                reservations_.pop_back();
                break;
            }
            case 7:
            case 8:
            case 9: {
                if (runs_.empty()) break;
                std::swap(runs_[random() % runs_.size()], runs_.back());
                Run run = runs_.back();
                runs_.pop_back();
                if (run.blocks > 2 && random() % 3 == 0) {  // only the first part
                    const std::uint64_t cut = run.blocks / 2;
                    runs_.push_back(Run{BlockIndex{run.first() + cut}, run.blocks - cut});
                    run.blocks = cut;
                }
                space_->free(run);
                erase(live_, run);
                insert(freed_, run);
                break;
            }
            case 10:
            case 11: {
                const auto wanted = static_cast<std::uint32_t>(random() % 20 + 1);
                const auto result = run([&](Suspend& s) -> Result<void> {
                    while (space_->reserved_pages(false) < wanted) {
                        TRY(space_->reserve_pages(s, wanted, false));
                    }
                    return {};
                });
                if (!result) {
                    ASSERT_EQ(result.error().code, Errc::kNoSpace);
                    break;
                }
                for (std::uint32_t i = 0; i < wanted; ++i) {
                    const Run taken = page(value(space_->take_page()));
                    ASSERT_NO_FATAL_FAILURE(expect_handed_out(taken, "page"));
                    insert(live_, taken);
                    pages_[taken.first()] = generation_;
                }
                break;
            }
            case 12: {
                for (std::size_t n = random() % 20; n > 0 && !pages_.empty(); --n) {
                    auto it = pages_.lower_bound(random() % shape_.blocks);
                    if (it == pages_.end()) it = pages_.begin();
                    const Run returned = page(it->first);
                    space_->return_page(returned.start, Generation{it->second});
                    erase(live_, returned);
                    if (it->second != generation_) insert(freed_, returned);
                    pages_.erase(it);
                }
                break;
            }
            case 13:
                if (is_frozen_) break;
                ASSERT_NO_FATAL_FAILURE(freeze());
                break;
            case 14:
                if (!is_frozen_) break;
                ASSERT_NO_FATAL_FAILURE(release());
                break;
            default:
                if (random() % 8 != 0) break;
                ASSERT_NO_FATAL_FAILURE(crash());
        }
    }

    void freeze() {
        const auto ready = prepare();
        if (!ready) {
            ASSERT_EQ(ready.error().code, Errc::kNoSpace);
            return;
        }
        being_written_ = space_->freeze(Generation{generation_ + 1});
        for (const auto& frozen : being_written_.pages) {
            const Run moved = page(value(frozen.block));
            ASSERT_NO_FATAL_FAILURE(expect_handed_out(moved, "map page"));
            PageHeader header;
            std::memcpy(&header, frozen.bytes.data(), sizeof(header));
            map_pages_[{header.level, header.map_index}] = moved.first();
        }
        is_frozen_ = true;
        freed_frozen_.merge(freed_);
        freed_.clear();
        frozen_ = live_;
        for (const auto& [which, block] : map_pages_) insert(frozen_, page(block));
        frozen_runs_ = runs_;
        frozen_pages_ = pages_;
        frozen_map_pages_ = map_pages_;
        ++generation_;
        write(being_written_);
    }

    void release() {
        durable_generation_ = generation_ - 1;
        root_ = being_written_.root;
        space_->release();
        is_frozen_ = false;
        durable_ = std::move(frozen_);
        frozen_.clear();
        freed_frozen_.clear();
        durable_runs_ = frozen_runs_;
        durable_pages_ = frozen_pages_;
        durable_map_pages_ = frozen_map_pages_;
        ASSERT_EQ(root_.free_blocks, shape_.blocks - kLogEnd - durable_.size());
    }

    // Memory is lost; the durable root is found as it was.
    void crash() {
        reservations_.clear();
        reserved_blocks_.clear();
        is_frozen_ = false;
        const auto opened = reopen();
        ASSERT_TRUE(opened) << opened.error().message();
        ASSERT_NO_FATAL_FAILURE(verify());
        run([&](Suspend& s) {
            for (std::uint64_t block = kLogEnd; block < shape_.blocks; ++block) {
                const auto is_used = space_->is_used(s, BlockIndex{block});
                ASSERT_TRUE(is_used);
                ASSERT_EQ(*is_used, durable_.count(block) == 1) << block;
            }
        });
        runs_ = durable_runs_;
        pages_ = durable_pages_;
        map_pages_ = durable_map_pages_;
        frozen_.clear();
        freed_.clear();
        freed_frozen_.clear();
        live_.clear();
        for (const Run& run : runs_) insert(live_, run);
        for (const auto& [block, made] : pages_) insert(live_, page(block));
    }

    void play(const Shape& shape, unsigned seed, int steps) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        std::mt19937 random(seed);
        make(shape);
        ASSERT_NO_FATAL_FAILURE(freeze());
        ASSERT_NO_FATAL_FAILURE(release());
        for (int i = 0; i < steps; ++i) {
            ASSERT_NO_FATAL_FAILURE(step(random)) << "step " << i;
            if (i % 50 == 0) {
                ASSERT_NO_FATAL_FAILURE(verify()) << "step " << i;
            }
        }
        ASSERT_NO_FATAL_FAILURE(verify());
        reservations_.clear();
        reserved_blocks_.clear();
        for (Blocks* blocks : {&live_, &durable_, &frozen_, &freed_, &freed_frozen_}) {
            blocks->clear();
        }
        runs_.clear();
        pages_.clear();
        map_pages_.clear();
        is_frozen_ = false;
    }

    std::vector<Reservation> reservations_;
    Blocks reserved_blocks_, live_, durable_, frozen_;
    Blocks freed_, freed_frozen_;  // since the last freeze, and before it but not released
    std::vector<Run> runs_, durable_runs_, frozen_runs_;
    std::map<std::uint64_t, std::uint64_t> pages_, durable_pages_, frozen_pages_;  // -> generation
    std::map<std::pair<int, std::uint64_t>, std::uint64_t> map_pages_, durable_map_pages_,
        frozen_map_pages_;
    bool is_frozen_ = false;
    SpaceAllocator::Frozen being_written_;
};

TEST_F(SpaceAllocatorModel, OneSmallBitmap) {
    for (unsigned seed = 1; seed <= 3; ++seed) {
        ASSERT_NO_FATAL_FAILURE(play({.blocks = 4100}, seed, 1500));
    }
}

TEST_F(SpaceAllocatorModel, SeveralBitmaps) {
    for (unsigned seed = 1; seed <= 2; ++seed) {
        ASSERT_NO_FATAL_FAILURE(
            play({.blocks = 100003, .options = {.cached_map_pages = 16}}, seed, 1200));
    }
}

TEST_F(SpaceAllocatorModel, LargeClusters) {
    for (unsigned seed = 1; seed <= 2; ++seed) {
        ASSERT_NO_FATAL_FAILURE(
            play({.blocks = 40005, .options = {.cluster_blocks = 16, .reserve_blocks = 300}}, seed,
                 1200));
    }
}

TEST_F(SpaceAllocatorModel, LargePages) {
    for (unsigned seed = 1; seed <= 2; ++seed) {
        ASSERT_NO_FATAL_FAILURE(play({.blocks = 30001,
                                      .page_bytes = 16384,
                                      .options = {.cluster_blocks = 2, .reserve_blocks = 200}},
                                     seed, 1200));
    }
}

// Fibers that search at once, over a map most of which is not in memory.
TEST_F(SpaceAllocatorModel, ConcurrentFibersNeverShareBlocks) {
    make({.blocks = 32256ull * 60, .options = {.cached_map_pages = 16}});
    for (std::uint64_t group = 0; group < 60; ++group) (void)allocate(3, group * 32256 + 600);
    ASSERT_TRUE(checkpoint());
    ASSERT_TRUE(reopen());
    Blocks taken;
    run([&](Suspend& suspend) {
        driver::WaitGroup group;
        for (unsigned i = 0; i < 30; ++i) {
            group.add();
            suspend.reactor().spawn([&, i](Suspend& inner) {
                std::mt19937 random(i);
                std::vector<Reservation> mine;
                for (int n = 0; n < 40; ++n) {
                    auto reservation = space_->reserve(
                        inner,
                        {.blocks = random() % 3000 + 1,
                         .near = BlockIndex{random() % 3 == 0 ? 0 : random() % shape_.blocks}});
                    ASSERT_TRUE(reservation);
                    const Run run = reservation->run();
                    for (std::uint64_t b = run.first(); b < run.end(); ++b) {
                        ASSERT_TRUE(taken.insert(b).second);
                    }
                    if (random() % 2 == 0) {
                        space_->commit(std::move(*reservation));
                    } else {
                        mine.push_back(std::move(*reservation));
                    }
                    if (random() % 4 == 0 && !mine.empty()) {
                        erase(taken, mine.back().run());
                        mine.pop_back();
                    }
                }
                for (auto& reservation : mine) erase(taken, reservation.run());
                mine.clear();
                group.done();
            });
        }
        group.wait(suspend);
    });
    verify();
}

}  // namespace
}  // namespace blobfs::blobstore
