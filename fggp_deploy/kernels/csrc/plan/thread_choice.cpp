#include "plan/thread_choice.h"

#include <algorithm>

namespace fggp {
namespace {

// A trial takes so many runs, at least. On several threads it also takes so long, because threads are
// interrupted every few milliseconds. After so many runs without help there is nothing to try.
constexpr int kTrial = 8;
constexpr double kTrialSeconds = 10e-3;
// After a trial, the preferred way runs at least so many times as long as the trial lost.
constexpr double kRest = 20;
// A mean is over about so many latest runs, and over so long.
constexpr int kMemory = 32;
constexpr double kMemorySeconds = 50e-3;
// Runs between two trials, at most, if they cost little. While several threads are preferred, trials of
// one only cost time. While one is preferred, they find out when the machine is free again.
constexpr int kTrialsOfOne = 4096, kTrialsOfSeveral = 512;

// How many runs of this length fit into `seconds`.
int runs_in(double seconds, double run) {
  return static_cast<int>(std::min(seconds / std::max(run, 1e-9), 1e6));
}

}  // namespace

bool ThreadChoice::several() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!trying_ && --until_trial_ <= 0) {
    trying_ = true;
    tried_ = lost_ = 0;
    interval_ = std::min(2 * interval_, preferred_ ? kTrialsOfOne : kTrialsOfSeveral);
    until_trial_ = interval_;
    ways_[!preferred_] = {};
  }
  return trying_ != preferred_;
}

bool ThreadChoice::prefers_several() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return preferred_;
}

void ThreadChoice::record(bool several, bool helped, double seconds, size_t images) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const bool warm = last_ == several;
  last_ = several;
  if (several) alone_ = helped ? 0 : alone_ + 1;
  if (several && alone_ >= kTrial) {
    alone_ = 0;
    trying_ = false;
    ways_[true] = {};
    if (preferred_) prefer(false);
    return;
  }
  if (!warm) return;
  const auto n = static_cast<double>(images);
  Way& way = ways_[several];
  way.runs = std::min(way.runs + 1, std::max(kMemory, runs_in(kMemorySeconds, n * way.mean)));
  way.mean += (seconds / n - way.mean) / way.runs;
  const Way &now = ways_[preferred_], &other = ways_[!preferred_];
  if (trying_ && several != preferred_) {
    const double usual = n * now.mean;
    tried_ += seconds;
    lost_ += seconds - usual;
    const bool complete = way.runs >= kTrial && (preferred_ || tried_ >= kTrialSeconds);
    if (!complete && lost_ < kTrial * usual) return;
    trying_ = false;
    until_trial_ = std::max(interval_, runs_in(kRest * lost_, usual));
  }
  if (!trying_ && other.runs > 0 && other.mean < now.mean) prefer(!preferred_);
}

void ThreadChoice::prefer(bool several) {
  preferred_ = several;
  interval_ = until_trial_ = kFirstTrial;
}

}  // namespace fggp
