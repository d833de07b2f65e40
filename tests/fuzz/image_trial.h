#pragma once

// What is done with the image of a filesystem, whatever is in it, and what has to hold:
//  - a check and a read-only mount change nothing;
//  - what fsck calls sound mounts, passes the checks of the filesystem and of the store, and is
//    sound after it was used;
//  - a repair leaves nothing to repair, and the result passes all of that.
// An error is an answer everywhere else. One thread.

#include <optional>
#include <string>
#include <vector>

#include "tests/fuzz/mutation.h"
#include "tests/fuzz/sound_images.h"
#include "tools/fsck/check_device.h"

namespace blobfs::fuzz {

class ImageTrial {
  public:
    // The mutation decides what is done with the filesystem once it is mounted.
    ImageTrial(SoundImages& images, const std::string& image, Mutation& mutation)
        : images_(images), image_(image), mutation_(mutation) {}

    enum class Verdict : std::uint8_t { kSound, kUnsound, kRefused };

    // Checks, then mounts and repairs. Suspends, as the others.
    void everything(driver::Suspend& suspend);
    // Checks, then mounts what is sound and repairs what is not.
    void checks(driver::Suspend& suspend);
    // Mounts read-only, mounts and uses it, mounts what that has left.
    void mounts(driver::Suspend& suspend);

    [[nodiscard]] Verdict verdict() const { return verdict_; }
    // What does not hold, for people; empty: all of it does.
    [[nodiscard]] const std::vector<std::string>& violations() const { return violations_; }

  private:
    [[nodiscard]] std::optional<fsck::CheckReport> check(driver::Suspend& suspend,
                                                         fsck::RepairMode mode);
    void check_only(driver::Suspend& suspend);
    // Repairs, checks and mounts what the repair has made.
    void repairs(driver::Suspend& suspend);
    void mount(driver::Suspend& suspend, bool read_only, bool sound);
    void read_all(driver::Suspend& suspend, fs::Filesystem& filesystem);
    void change_some(driver::Suspend& suspend, fs::Filesystem& filesystem);
    void change_one(driver::Suspend& suspend, fs::Filesystem& filesystem);
    void hold(bool condition, const std::string& violation) {
        if (!condition) violations_.push_back(violation);
    }

    SoundImages& images_;
    const std::string& image_;
    Mutation& mutation_;
    Verdict verdict_ = Verdict::kRefused;
    std::vector<std::string> violations_;
};

}  // namespace blobfs::fuzz
