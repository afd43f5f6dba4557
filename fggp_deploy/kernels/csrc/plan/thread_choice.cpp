#include "plan/thread_choice.h"

#include <algorithm>

namespace fggp {
namespace {

// A trial takes so many runs and so long, at least: threads are interrupted every few milliseconds.
// After so many runs without help there is nothing to try.
constexpr int kTrial = 8;
constexpr double kTrialSeconds = 10e-3;
// A mean is over about so many latest runs, and over so long.
constexpr int kMemory = 32;
constexpr double kMemorySeconds = 50e-3;
// Runs between two trials, at most. While several threads are preferred, trials of one only cost time.
// While one is preferred, they find out when the machine is free again.
constexpr int kTrialsOfOne = 4096, kTrialsOfSeveral = 512;

int runs_in(double seconds, double mean) { return static_cast<int>(seconds / std::max(mean, 1e-6)); }

}  // namespace

bool ThreadChoice::several() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (trial_ == 0) {
    if (--until_trial_ > 0) return preferred_;
    interval_ = std::min(2 * interval_, preferred_ ? kTrialsOfOne : kTrialsOfSeveral);
    until_trial_ = interval_;
    trial_ = std::max(kTrial, runs_in(kTrialSeconds, ways_[preferred_].mean));
    budget_ = ways_[preferred_].mean * trial_;
    ways_[!preferred_] = {};
  }
  trial_--;
  return !preferred_;
}

void ThreadChoice::record(bool several, bool helped, double seconds) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const bool warm = last_ == several;
  last_ = several;
  if (several) alone_ = helped ? 0 : alone_ + 1;
  if (several && alone_ >= kTrial) {
    alone_ = trial_ = 0;
    ways_[true] = {};
    if (preferred_) prefer(false);
    return;
  }
  if (!warm) return;
  Way& way = ways_[several];
  way.runs = std::min(way.runs + 1, std::max(kMemory, runs_in(kMemorySeconds, way.mean)));
  way.mean += (seconds - way.mean) / way.runs;
  const Way &now = ways_[preferred_], &other = ways_[!preferred_];
  if (several != preferred_) budget_ -= seconds;
  if (budget_ < 0) trial_ = 0;  // it cannot be better any more
  if (trial_ > 0 || other.runs == 0 || now.mean <= other.mean) return;
  prefer(!preferred_);
}

void ThreadChoice::prefer(bool several) {
  preferred_ = several;
  interval_ = until_trial_ = kFirstTrial;
}

}  // namespace fggp
