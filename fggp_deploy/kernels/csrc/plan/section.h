// Stages of parts in one parallel section: threads enter once and run all stages, instead of meeting at
// the start and the end of each.
//
// Every thread that enters runs the same loop: it claims a part of the current stage, runs it, and
// claims the next. Whoever completes the last part of a stage opens the following stage. A stage with a
// single part is run by the thread that opens it, so chains of small stages cost no synchronization.
// The thread that asks for the section enters too. The others may arrive at any time or never.
//
// Three atomics hold the state. `stage_` is the current stage, `open_` has a bit for each of its parts
// that nobody has claimed, and `left_` counts its parts that are not completed.
//
// No deadlock: a thread waits only while no bit of `open_` is set and `stage_` is not the last. Then
// every part of the current stage was claimed by a thread that runs it or has completed it. A part
// never waits, so all are completed, and the thread that completes the last one opens the next stage.
// No thread waits for one that has not arrived, since only a thread that is inside can claim a part.
// How many threads arrive, and when, decides only who runs a part. The section ends when all stages are
// done; a thread that arrives later finds this at once and returns.
//
// No part runs twice: to claim a part is to clear its bit with an atomic operation, whose result shows
// to a single thread that the bit was set. A thread may claim a bit when the stage that it had in mind
// is over. That is a valid claim of the new stage's part, because it reads `stage_` only afterwards:
// while it holds a part, `left_` cannot reach zero, so `stage_` cannot change.
//
// No data race: completing a part is a release and acquire operation on `left_`, so the thread that takes
// `left_` to zero has seen the writes of all parts of the stage. It sets `left_` and `stage_` and then
// sets `open_` with release. Each claim is an acquire operation on `open_` that reads this value or one
// that later claims made of it, so a part sees the writes of all earlier stages. A thread that returns
// has read the final `stage_`, which was stored with release after the last part.
#pragma once
#include <atomic>

#include "plan/threads.h"

namespace fggp {

// What a section runs. The parts of a stage may run at once, in any order. They must not throw.
class Stages {
 public:
  virtual size_t count() const = 0;
  virtual int parts(size_t stage) const = 0;  // 1 to kMaxParts
  virtual void run(size_t stage, int part) const = 0;

 protected:
  ~Stages() = default;
};

class Section {
 public:
  // `n_workers`: how many threads are expected. Must outlive every call of `enter`.
  Section(const Stages& stages, int n_workers);
  // Returns when all stages are done. Different threads give different `worker`s below n_workers,
  // which decides which parts they prefer: the same ones in every run, whose weights their cache holds.
  void enter(int worker);

 private:
  uint64_t choose(uint64_t open, int worker) const;
  void open_next(size_t stage);

  const Stages& stages_;
  const int n_workers_;
  alignas(64) std::atomic<uint64_t> open_;
  std::atomic<size_t> stage_;
  alignas(64) std::atomic<int> left_;
};

// Runs all stages with at most `n_workers` threads, this one included. Returns whether another came.
bool run_stages(const Threads& threads, int n_workers, const Stages& stages);

}  // namespace fggp
