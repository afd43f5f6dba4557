#include "runner.h"

namespace fggp {
namespace {

constexpr size_t kRemembered = 8;

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
  std::unique_ptr<Memory> memory = borrow(e.workspace_floats());
  std::vector<const float*> from(in, in + inputs.size());
  std::vector<float*> to(out, out + e.outputs().size());
  for (int64_t image = 0; image < n; image++) {
    e.run(from.data(), to.data(), memory->workspace.data(), threads);
    for (size_t i = 0; i < from.size(); i++) from[i] += inputs[i].size();
    for (size_t i = 0; i < to.size(); i++) to[i] += e.outputs()[i].size();
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  if (idle_.size() < 4) idle_.push_back(std::move(memory));
}

}  // namespace fggp
