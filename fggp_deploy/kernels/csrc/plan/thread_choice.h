// Chooses one thread or several for the runs of an execution, by the times that they took.
//
// If another process keeps a core busy, the system interrupts a thread that holds a part, and the others
// wait milliseconds for it. Several threads are then slower than one. The way with the lower mean time
// is preferred. The other one is tried again for a few runs from time to time: soon after the two have
// changed places, then more and more rarely, and the less often the more time a trial costs.
//
// A session does not say how many threads it has. If nobody else came in several runs in a row, it has
// one, or its other threads are held up: one thread is preferred as well.
#pragma once
#include <cstddef>
#include <mutex>

namespace fggp {

class ThreadChoice {
 public:
  // Whether the next run should use several threads.
  bool several();
  // Whether runs outside of trials use several threads.
  bool prefers_several();
  // A run of so many images took this long. `helped`: another thread came to run parts of it. The first
  // run after a change of the way is not counted: caches are cold.
  void record(bool several, bool helped, double seconds, size_t images);

 private:
  void prefer(bool several);

  struct Way {
    double mean = 0;  // seconds of an image
    int runs = 0;
  };
  static constexpr int kFirstTrial = 16;

  std::mutex mutex_;
  Way ways_[2];  // one thread, several threads
  bool preferred_ = true, trying_ = false;
  int last_ = -1;  // the way of the latest run, -1: none
  int interval_ = kFirstTrial, until_trial_ = kFirstTrial;  // runs between trials, and until the next
  double tried_ = 0, lost_ = 0;  // seconds of this trial, and how many more than the preferred way takes
  int alone_ = 0;  // latest runs that offered work to several threads and got no help
};

}  // namespace fggp
