#include "plan/section.h"

#include <thread>

namespace fggp {
namespace {

// A waiting thread spins for about a millisecond, and then lets other threads of its core run, such as
// the one that it waits for. If it did so earlier, a busy process would get the core for milliseconds.
constexpr int kSpins = 50000;

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

class Wait {
 public:
  void once() {
    if (n_ < kSpins) {
      relax();
      n_++;
    } else {
      std::this_thread::yield();
    }
  }

 private:
  int n_ = 0;
};

uint64_t first_bits(int n) { return n == 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; }
uint64_t lowest_bit(uint64_t x) { return x & (~x + 1); }
uint64_t highest_bit(uint64_t x) { return uint64_t{1} << (63 - __builtin_clzll(x)); }

}  // namespace

Section::Section(const Stages& stages, int n_workers) : stages_(stages), n_workers_(n_workers) {
  const int parts = stages.count() ? stages.parts(0) : 0;
  left_.store(parts, std::memory_order_relaxed);
  stage_.store(0, std::memory_order_relaxed);
  open_.store(first_bits(parts), std::memory_order_release);
}

// A worker prefers its own share of the parts, from the front. It helps others from the back.
uint64_t Section::choose(uint64_t open, int worker) const {
  const size_t stage = stage_.load(std::memory_order_relaxed);  // a guess
  if (stage >= stages_.count()) return lowest_bit(open);
  const int parts = stages_.parts(stage);
  const uint64_t own = open & first_bits(parts * (worker + 1) / n_workers_) &
                       ~first_bits(parts * worker / n_workers_);
  return own ? lowest_bit(own) : highest_bit(open);
}

void Section::enter(int worker) {
  Wait wait;
  for (;;) {
    const uint64_t open = open_.load(std::memory_order_acquire);
    if (!open) {
      if (stage_.load(std::memory_order_acquire) == stages_.count()) return;
      wait.once();
      continue;
    }
    const uint64_t bit = choose(open, worker);
    if (!(open_.fetch_and(~bit, std::memory_order_acq_rel) & bit)) continue;
    const size_t stage = stage_.load(std::memory_order_relaxed);
    stages_.run(stage, __builtin_ctzll(bit));
    if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) open_next(stage + 1);
    wait = Wait();
  }
}

void Section::open_next(size_t stage) {
  for (; stage < stages_.count(); stage++) {
    const int parts = stages_.parts(stage);
    if (parts == 1) {
      stages_.run(stage, 0);
      continue;
    }
    left_.store(parts, std::memory_order_relaxed);
    stage_.store(stage, std::memory_order_relaxed);
    open_.store(first_bits(parts), std::memory_order_release);
    return;
  }
  stage_.store(stage, std::memory_order_release);
}

bool run_stages(const Threads& threads, int n_workers, const Stages& stages) {
  if (n_workers <= 1 || !threads.run) {
    for (size_t stage = 0; stage < stages.count(); stage++)
      for (int part = 0; part < stages.parts(stage); part++) stages.run(stage, part);
    return false;
  }
  Section section(stages, n_workers);
  return in_parallel(threads, static_cast<size_t>(n_workers),
                     [&](size_t worker) { section.enter(static_cast<int>(worker)); });
}

}  // namespace fggp
