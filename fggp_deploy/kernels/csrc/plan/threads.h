// The threads of the caller, and how work is split among them.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace fggp {

constexpr int kMaxParts = 64;  // of a step

// Calls fn(arg, i) for every i below n, and returns when all are done. Null `run`: no threads.
struct Threads {
  void (*run)(void* self, size_t n, void (*fn)(void*, size_t), void* arg) = nullptr;
  void* self = nullptr;
};

// Returns whether another thread than this one came to call `f`.
template <class F>
bool in_parallel(const Threads& threads, size_t n, const F& f) {
  if (n <= 1 || !threads.run) {
    for (size_t i = 0; i < n; i++) f(i);
    return false;
  }
  struct Call {
    const F& f;
    const std::thread::id caller = std::this_thread::get_id();
    std::atomic<bool> helped{false};
  } call{f};
  threads.run(
      threads.self, n,
      [](void* arg, size_t i) {
        Call& c = *static_cast<Call*>(arg);
        if (std::this_thread::get_id() != c.caller) c.helped.store(true, std::memory_order_relaxed);
        c.f(i);
      },
      &call);
  return call.helped.load(std::memory_order_relaxed);
}

// The cost of copying one float, in multiply-adds of the kernels.
constexpr double kCopyWork = 4;

// Logical cores that this process may use: those of its affinity, at most its control groups' quota.
int usable_cores();

// How work is shared: by how many threads at most, and from which work (in multiply-adds) on a part is
// worth handing to another thread. Tests hand over the smallest parts.
struct Sharing {
  int threads = 1;
  double least_work = 20e3;

  // The number of threads that pays for this much work.
  int workers(double work) const { return shares(work, threads); }
  // Into how many parts to cut it. A thread gets more than one, so that others can help a late one.
  int parts(double work) const {
    constexpr int kPartsPerThread = 2;
    return threads == 1 ? 1 : shares(work, std::min(kPartsPerThread * threads, kMaxParts));
  }

 private:
  int shares(double work, int most) const {
    return std::clamp(static_cast<int>(std::min(work / least_work, 1e6)), 1, most);
  }
};

// The borders that split n things into parts of about equal size.
inline std::vector<int> even_split(int n, int n_pieces) {
  std::vector<int> borders{0};
  for (int i = 1; i <= n_pieces; i++) {
    const int border = static_cast<int>(int64_t{n} * i / n_pieces);
    if (border > borders.back()) borders.push_back(border);
  }
  return borders;
}

}  // namespace fggp
