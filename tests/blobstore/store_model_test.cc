// Random operations on a store against a model in memory, with several fibers at once, reopened now
// and then, cleanly or not. BLOBFS_SEED chooses the seed, BLOBFS_OPERATIONS how many operations.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>

#include "driver/memory/dma_buffer.h"
#include "store_fixture.h"

namespace blobfs::blobstore {
namespace {

struct ModelBlob {
    std::string data;
    std::string attributes;
    std::map<std::string, std::string> xattrs;
    std::map<std::string, std::string> records;
};

constexpr std::size_t kMostBytes = 640 * 1024;

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

// One fiber's blobs and what they must be.
class Actor {
  public:
    Actor(StoreFixture& fixture, std::uint64_t seed) : fixture_(fixture), random_(seed) {
        buffer_ = must(driver::DmaBuffer::allocate(1 << 20));
        place_ = must(driver::DmaBuffer::allocate(4096));
    }

    void step(Suspend& suspend);
    void verify(Suspend& suspend);
    [[nodiscard]] std::uint64_t overwritten() const { return overwritten_; }

  private:
    Blobstore& store() { return *fixture_.store; }
    std::uint64_t below(std::uint64_t n) { return random_() % n; }
    std::string bytes(std::size_t n) {
        std::string text(n, '\0');
        const auto salt = static_cast<unsigned>(random_());
        for (std::size_t i = 0; i < n; ++i) text[i] = static_cast<char>(salt + i * 7 + i / 251);
        return text;
    }
    std::map<BlobId, ModelBlob>::iterator any() {
        return std::next(blobs_.begin(), static_cast<std::ptrdiff_t>(below(blobs_.size())));
    }
    std::uint64_t offset() {
        switch (below(4)) {
            case 0:
                return below(3000);
            case 1:
                return below(64) * 4096;
            case 2:
                return below(8) * 65536 + below(3) - 1 + 1;
            default:
                return below(kMostBytes / 2);
        }
    }
    std::uint64_t length() {
        switch (below(4)) {
            case 0:
                return 1 + below(600);
            case 1:
                return 4096 * (1 + below(16));
            case 2:
                return 1 + below(9000);
            default:
                return 1 + below(128 * 1024);
        }
    }
    void commit(Suspend& suspend, Transaction& transaction) {
        must(store().commit(suspend, transaction));
    }

    void create(Suspend& suspend);
    void remove(Suspend& suspend);
    void write(Suspend& suspend);
    void read(Suspend& suspend);
    void truncate(Suspend& suspend);
    void deallocate(Suspend& suspend);
    void change_small_things(Suspend& suspend);
    void expect_range(Suspend& suspend, BlobId blob, const ModelBlob& model, std::uint64_t offset,
                      std::uint64_t length);

    StoreFixture& fixture_;
    std::mt19937_64 random_;
    driver::DmaBuffer buffer_, place_;
    std::map<BlobId, ModelBlob> blobs_;
    std::uint64_t overwritten_ = 0;  // times, in place
};

void Actor::create(Suspend& suspend) {
    const BlobId blob = store().allocate_id();
    ASSERT_FALSE(blobs_.contains(blob));
    Transaction transaction;
    ModelBlob model{.data = {}, .attributes = bytes(below(200)), .xattrs = {}, .records = {}};
    transaction.create_blob(blob, model.attributes);
    commit(suspend, transaction);
    blobs_[blob] = model;
}

void Actor::remove(Suspend& suspend) {
    const auto victim = any();
    Transaction transaction;
    transaction.add_orphan(victim->first);
    transaction.set_urgent();
    commit(suspend, transaction);
    must(store().delete_blob(suspend, victim->first));
    EXPECT_EQ(store().attributes(suspend, victim->first).error().code, Errc::kNotFound);
    blobs_.erase(victim);
}

void Actor::write(Suspend& suspend) {
    auto& [blob, model] = *any();
    std::uint64_t at = offset(), n = length();
    const std::size_t shift = below(3) == 0 ? below(64) : 0;
    if (below(2) == 0) {
        at -= at % 512;  // whole sectors: what is overwritten in place may be so at once
        n = (n + 511) / 512 * 512;
    }
    const std::string text = bytes(n);
    std::memcpy(buffer_.data() + shift, text.data(), text.size());
    if (below(2) == 0) {  // it is known then where that is
        (void)must(store().read(suspend, blob, at - at % 4096, place_.span()));
    }
    if (below(2) == 0 &&
        must(store().overwrite(suspend, blob, at, buffer_.span().subspan(shift, text.size())))) {
        ASSERT_LE(at + text.size(), model.data.size());
        model.data.replace(at, text.size(), text);
        ++overwritten_;
        return;
    }
    Transaction transaction;
    must(store().write(suspend, blob, at, buffer_.span().subspan(shift, text.size()), transaction));
    if (below(2) == 0) {
        model.attributes = bytes(below(200));
        transaction.set_attribute_block(blob, model.attributes);
    }
    commit(suspend, transaction);
    if (model.data.size() < at + text.size()) model.data.resize(at + text.size());
    model.data.replace(at, text.size(), text);
}

void Actor::expect_range(Suspend& suspend, BlobId blob, const ModelBlob& model, std::uint64_t from,
                         std::uint64_t bytes_wanted) {
    const std::size_t shift = below(3) == 0 ? below(64) : 0;
    bytes_wanted = std::min<std::uint64_t>(bytes_wanted, buffer_.size() - shift);
    std::memset(buffer_.data(), 0xee, buffer_.size());
    const std::size_t got =
        must(store().read(suspend, blob, from, buffer_.span().subspan(shift, bytes_wanted)));
    const std::size_t expected = from < model.data.size()
                                     ? std::min<std::size_t>(bytes_wanted, model.data.size() - from)
                                     : 0;
    ASSERT_EQ(got, expected) << "blob " << value(blob) << " at " << from;
    const auto* read = reinterpret_cast<const char*>(buffer_.data() + shift);
    if (expected == 0) return;
    const auto differs = std::mismatch(read, read + got, model.data.data() + from);
    ASSERT_EQ(differs.first, read + got)
        << "blob " << value(blob) << " differs at byte "
        << from + static_cast<std::size_t>(differs.first - read) << " of " << model.data.size();
}

void Actor::read(Suspend& suspend) {
    const auto& [blob, model] = *any();
    expect_range(suspend, blob, model, offset(), length());
}

void Actor::truncate(Suspend& suspend) {
    auto& [blob, model] = *any();
    const std::uint64_t size = below(3) == 0 ? below(4000) : below(kMostBytes);
    Transaction transaction;
    must(store().truncate(suspend, blob, size, transaction));
    commit(suspend, transaction);
    model.data.resize(size);
}

void Actor::deallocate(Suspend& suspend) {
    auto& [blob, model] = *any();
    const std::uint64_t at = offset(), n = length();
    Transaction transaction;
    if (below(3) == 0) {
        must(store().preallocate(suspend, blob, at, n, transaction));
    } else {
        must(store().deallocate(suspend, blob, at, n, transaction));
        if (at < model.data.size()) {
            const std::size_t end = std::min<std::size_t>(at + n, model.data.size());
            std::fill(model.data.begin() + static_cast<std::ptrdiff_t>(at),
                      model.data.begin() + static_cast<std::ptrdiff_t>(end), '\0');
        }
    }
    commit(suspend, transaction);
}

void Actor::change_small_things(Suspend& suspend) {
    auto& [blob, model] = *any();
    Transaction transaction;
    const std::string name = "user.name" + std::to_string(below(5));
    const std::string key = "key" + std::to_string(below(200));
    switch (below(5)) {
        case 0:
            model.xattrs[name] = bytes(below(8) == 0 ? below(65000) : below(100));
            must(store().set_xattr(suspend, blob, name, model.xattrs[name], transaction));
            break;
        case 1: {
            const Result<void> removed = store().remove_xattr(suspend, blob, name, transaction);
            EXPECT_EQ(removed.has_value(), model.xattrs.erase(name) == 1);
            break;
        }
        case 2:
            transaction.erase_record(blob, key);
            model.records.erase(key);
            break;
        default:
            model.records[key] = bytes(below(300));
            transaction.put_record(blob, key, model.records[key]);
    }
    commit(suspend, transaction);
}

void Actor::step(Suspend& suspend) {
    if (blobs_.size() < 3 || (blobs_.size() < 14 && below(8) == 0)) return create(suspend);
    switch (below(16)) {
        case 0:
            return below(3) == 0 ? remove(suspend) : truncate(suspend);
        case 1:
            return truncate(suspend);
        case 2:
            return deallocate(suspend);
        case 3:
        case 4:
        case 5:
        case 6:
            return change_small_things(suspend);
        case 7:
        case 8:
        case 9:
            return read(suspend);
        case 10:
            if (below(8) == 0) must(store().sync(suspend));
            if (below(16) == 0) must(store().checkpoint(suspend));
            return;
        default:
            return write(suspend);
    }
}

void Actor::verify(Suspend& suspend) {
    for (const auto& [blob, model] : blobs_) {
        const BlobAttributes attributes = must(store().attributes(suspend, blob));
        ASSERT_EQ(attributes.size, model.data.size());
        ASSERT_EQ(attributes.block, model.attributes);
        ASSERT_NO_FATAL_FAILURE(expect_range(suspend, blob, model, 0, 1 << 20));
        std::vector<std::string> names;
        for (const auto& [name, text] : model.xattrs) {
            names.push_back(name);
            ASSERT_EQ(must(store().xattr(suspend, blob, name)), text);
        }
        ASSERT_EQ(must(store().xattr_names(suspend, blob)), names);
        auto expected = model.records.begin();
        must(store().scan_records(suspend, blob, "", [&](std::string_view k, std::string_view v) {
            EXPECT_TRUE(expected != model.records.end() && k == expected->first &&
                        v == expected->second);
            ++expected;
            return true;
        }));
        ASSERT_EQ(expected, model.records.end());
    }
}

struct ModelCase {
    std::string name;
    FormatOptions format;
    std::size_t cache_bytes;
};

class BlobstoreModel : public testing::TestWithParam<ModelCase> {};

TEST_P(BlobstoreModel, RandomOperationsEqualTheModelAcrossReopening) {
    const std::uint64_t seed = from_environment("BLOBFS_SEED", std::random_device()());
    const std::uint64_t operations = from_environment("BLOBFS_OPERATIONS", 10'000);
    std::printf("seed %lu: rerun with BLOBFS_SEED=%lu\n", seed, seed);
    RecordProperty("seed", std::to_string(seed));
    OpenOptions options;
    options.cache_bytes = GetParam().cache_bytes;
    options.commit_interval_ms = 20;
    StoreFixture fixture("mem:192MiB", GetParam().format, options,
                         driver::ReactorOptions{.shuffle_seed = seed});
    constexpr std::size_t kActors = 4;
    std::vector<std::unique_ptr<Actor>> actors;
    for (std::size_t i = 0; i < kActors; ++i) {
        actors.push_back(std::make_unique<Actor>(fixture, seed + i));
    }
    std::mt19937_64 random(seed);
    for (std::uint64_t done = 0; done < operations && !testing::Test::HasFailure();) {
        const std::uint64_t round = 1 + random() % 300;
        fixture.run([&](Suspend& suspend) {
            driver::WaitGroup group;
            for (auto& actor : actors) {
                group.add();
                suspend.reactor().spawn([&, round](Suspend& fiber) {
                    for (std::uint64_t i = 0; i < round; ++i) actor->step(fiber);
                    group.done();
                });
            }
            group.wait(suspend);
            switch (random() % 4) {
                case 0:
                    fixture.reopen(suspend, true);
                    break;
                case 1:
                    must(fixture.store->sync(suspend));
                    fixture.reopen(suspend, false);
                    break;
                default:
                    break;
            }
            for (auto& actor : actors) actor->verify(suspend);
            fixture.expect_sound(suspend);
        });
        done += round * kActors;
    }
    std::uint64_t overwritten = 0;
    for (const auto& actor : actors) overwritten += actor->overwritten();
    EXPECT_GT(overwritten, 0U);
}

INSTANTIATE_TEST_SUITE_P(Geometries, BlobstoreModel,
                         testing::Values(ModelCase{"Default", {}, 64u << 20},
                                         ModelCase{"LargePages", {.page_bytes = 16384}, 64u << 20},
                                         ModelCase{"SmallCache", {.page_bytes = 4096}, 1u << 20},
                                         ModelCase{"LargeClusters",
                                                   {.cluster_bytes = 65536, .page_bytes = 8192},
                                                   8u << 20}),
                         [](const auto& model_case) { return model_case.param.name; });

}  // namespace
}  // namespace blobfs::blobstore
