#pragma once

// What several processes did, and whether it is linearizable: whether each operation can be thought
// to have happened at one moment between its call and its return, so that what all of them answered
// is what one process would have been answered that did the same one after another (Wing and Gong,
// "Testing and Verifying Concurrent Objects", 1993; orders that lead to the same place are tried
// once, as Lowe, "Testing for linearizability", 2017, proposes).
//
// A Model is a state of what is operated on. It has a type Operation with begin_ns and end_ns, one
// clock for all processes; is ordered by <; and apply(operation) brings it to the state after the
// operation, or answers false when the operation cannot have been answered so in this state.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <utility>
#include <vector>

namespace blobfs::posix {

template <typename Model>
class History {
  public:
    using Operation = typename Model::Operation;

    // What each process did, in its order.
    explicit History(std::vector<std::vector<Operation>> processes)
        : processes_(std::move(processes)) {}

    // Some order of all operations explains their answers, beginning from this state. One operation
    // that had returned before another was called comes before it.
    [[nodiscard]] bool is_linearizable(const Model& start) {
        tried_.clear();
        furthest_ = 0;
        return explains(Place(processes_.size()), 0, start);
    }
    // How many operations the best order could explain.
    [[nodiscard]] std::size_t explained() const { return furthest_; }

  private:
    // How many operations of each process have happened.
    using Place = std::vector<std::size_t>;

    bool explains(Place place, std::size_t done, const Model& state) {
        furthest_ = std::max(furthest_, done);
        std::int64_t first_end = std::numeric_limits<std::int64_t>::max();
        bool all_done = true;
        for (std::size_t process = 0; process < processes_.size(); ++process) {
            if (place[process] == processes_[process].size()) continue;
            all_done = false;
            first_end = std::min(first_end, processes_[process][place[process]].end_ns);
        }
        if (all_done) return true;
        if (!tried_.emplace(place, state).second) return false;
        for (std::size_t process = 0; process < processes_.size(); ++process) {
            if (place[process] == processes_[process].size()) continue;
            const Operation& operation = processes_[process][place[process]];
            if (operation.begin_ns > first_end) continue;  // another one had returned before
            Model after = state;
            if (!after.apply(operation)) continue;
            ++place[process];
            if (explains(place, done + 1, after)) return true;
            --place[process];
        }
        return false;
    }

    std::vector<std::vector<Operation>> processes_;
    std::set<std::pair<Place, Model>> tried_;
    std::size_t furthest_ = 0;
};

}  // namespace blobfs::posix
