#include "runner.h"

#include <algorithm>
#include <atomic>

namespace fggp {
namespace {

constexpr size_t kRemembered = 8;  // input sizes
constexpr size_t kIdle = 16;       // workspaces kept for the next runs

}  // namespace

Runner::Runner(Program program, const FggpIsa& isa, int tasks)
    : program_(std::move(program)), isa_(isa), tasks_(tasks) {}

std::shared_ptr<const Execution> Runner::execution(const std::vector<ValueShape>& inputs) {
  std::vector<int64_t> key;
  for (const ValueShape& s : inputs)
    key.insert(key.end(), {s.flat, s.channels, s.height, s.width});
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = executions_.find(key);
  if (found != executions_.end()) return found->second;
  auto made = std::make_shared<const Execution>(program_, isa_, inputs, tasks_);
  if (executions_.size() == kRemembered) executions_.clear();
  return executions_[key] = made;
}

std::unique_ptr<Runner::Memory> Runner::borrow(size_t floats) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<Memory> m = std::move(idle_.back());
      idle_.pop_back();
      if (m->floats >= floats) return m;
    }
  }
  return std::unique_ptr<Memory>(new Memory{floats, Workspace(floats)});
}

void Runner::run(const Execution& e, const std::vector<ValueShape>& inputs, int64_t n,
                 const float* const* in, float* const* out, const Threads& threads) {
  // With an image for every thread, threads take whole images; else they share each one's steps.
  const int n_threads = std::max(1, tasks_ / 2);
  const bool by_image =
      threads.run && n_threads > 1 && n >= n_threads &&
      pieces(e.work() * static_cast<double>(n), n_threads) == n_threads;
  // What a task needs is allocated here: nothing may throw on somebody else's thread.
  struct Task {
    std::unique_ptr<Memory> memory;
    std::vector<const float*> from;
    std::vector<float*> to;
  };
  std::vector<Task> tasks(static_cast<size_t>(by_image ? n_threads : 1));
  for (Task& t : tasks) {
    t.memory = borrow(e.workspace_floats());
    t.from.resize(inputs.size());
    t.to.resize(e.outputs().size());
  }
  std::atomic<int64_t> next{0};
  in_parallel(by_image ? threads : Threads(), tasks.size(), [&](size_t t) {
    auto& [memory, from, to] = tasks[t];
    for (int64_t image; (image = next++) < n;) {
      const auto index = static_cast<size_t>(image);
      for (size_t i = 0; i < from.size(); i++) from[i] = in[i] + index * inputs[i].size();
      for (size_t i = 0; i < to.size(); i++) to[i] = out[i] + index * e.outputs()[i].size();
      e.run(from.data(), to.data(), memory->workspace.data(), by_image ? Threads() : threads);
    }
  });
  const std::lock_guard<std::mutex> lock(mutex_);
  for (Task& t : tasks)
    if (idle_.size() < kIdle) idle_.push_back(std::move(t.memory));
}

}  // namespace fggp
