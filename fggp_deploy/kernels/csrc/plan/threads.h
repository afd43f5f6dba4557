// Somebody's threads, and how work is cut for them.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fggp {

// Calls fn(arg, i) for every i below n, and returns when all are done. Null `run`: no threads.
struct Threads {
  void (*run)(void* self, size_t n, void (*fn)(void*, size_t), void* arg) = nullptr;
  void* self = nullptr;
};

template <class F>
void in_parallel(const Threads& threads, size_t n, const F& f) {
  if (n <= 1 || !threads.run) {
    for (size_t i = 0; i < n; i++) f(i);
    return;
  }
  threads.run(
      threads.self, n, [](void* arg, size_t i) { (*static_cast<const F*>(arg))(i); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

// What one float copied to another place costs, in multiply-adds of the kernels.
constexpr double kCopyWork = 4;

// Into how many pieces that much work (in multiply-adds) is cut, at most `tasks`: below a certain
// size a piece is not worth waking another thread.
inline int pieces(double work, int tasks) {
  constexpr double kWorkPerTask = 150e3;
  return std::clamp(static_cast<int>(std::min(work / kWorkPerTask, 1e6)), 1, tasks);
}

// Borders of about equal runs of n things.
inline std::vector<int> even_split(int n, int n_pieces) {
  std::vector<int> borders{0};
  for (int i = 1; i <= n_pieces; i++) {
    const int border = static_cast<int>(int64_t{n} * i / n_pieces);
    if (border > borders.back()) borders.push_back(border);
  }
  return borders;
}

}  // namespace fggp
