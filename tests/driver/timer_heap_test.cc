#include "driver/reactor/timer_heap.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

namespace blobfs::driver {
namespace {

// Against a sorted map: random adding, cancelling (of live, expired and cancelled timers) and time.
TEST(TimerHeap, AgreesWithASortedMap) {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
        std::mt19937_64 random(seed);
        TimerHeap heap;
        std::map<std::pair<std::uint64_t, std::uint64_t>, std::uint64_t> model;  // -> id
        std::map<std::uint64_t, std::pair<std::uint64_t, std::uint64_t>> by_id;
        std::vector<std::uint64_t> ids;
        std::vector<std::uint64_t> expired;
        std::uint64_t now = 0;
        std::uint64_t order = 0;
        for (int step = 0; step < 3000; ++step) {
            const auto choice = random() % 10;
            if (choice < 5) {
                const std::uint64_t deadline = now + random() % 50;
                const std::uint64_t number = order++;
                const auto id =
                    heap.add(deadline, [&expired, number] { expired.push_back(number); });
                ASSERT_NE(id, 0U);
                ASSERT_TRUE(by_id.emplace(id, std::pair(deadline, number)).second) << "id reused";
                model.emplace(std::pair(deadline, number), id);
                ids.push_back(id);
            } else if (choice < 8 && !ids.empty()) {
                const auto id = ids[random() % ids.size()];
                ASSERT_EQ(heap.cancel(id), model.erase(by_id.at(id)) == 1) << "seed " << seed;
            } else {
                now += random() % 20;
                expired.clear();
                std::vector<std::uint64_t> expected;
                while (!model.empty() && model.begin()->first.first <= now) {
                    expected.push_back(model.begin()->first.second);
                    model.erase(model.begin());
                }
                ASSERT_EQ(heap.expire(now), !expected.empty());
                ASSERT_EQ(expired, expected) << "seed " << seed << ", step " << step;
            }
            ASSERT_EQ(heap.size(), model.size());
            ASSERT_EQ(heap.next_deadline_ns(),
                      model.empty() ? TimerHeap::kNever : model.begin()->first.first);
        }
    }
}

TEST(TimerHeap, FunctionsMayAddAndCancel) {
    TimerHeap heap;
    std::vector<int> ran;
    const auto victim = heap.add(2, [&] { ran.push_back(2); });
    heap.add(1, [&] {
        ran.push_back(1);
        EXPECT_TRUE(heap.cancel(victim));
        for (int i = 10; i < 30; ++i) heap.add(3, [&ran, i] { ran.push_back(i); });
    });
    EXPECT_TRUE(heap.expire(2));
    EXPECT_EQ(ran, (std::vector<int>{1}));
    EXPECT_TRUE(heap.expire(3));
    EXPECT_EQ(ran.size(), 21U);
    EXPECT_EQ(ran.back(), 29);
}

TEST(TimerHeap, CancelDestroysTheFunction) {
    TimerHeap heap;
    const auto token = std::make_shared<int>();
    const auto id = heap.add(1, [token] {});
    EXPECT_EQ(token.use_count(), 2);
    EXPECT_TRUE(heap.cancel(id));
    EXPECT_EQ(token.use_count(), 1);
    EXPECT_FALSE(heap.cancel(id));
    EXPECT_FALSE(heap.cancel(0));
    EXPECT_FALSE(heap.cancel(UINT64_MAX));
}

}  // namespace
}  // namespace blobfs::driver
