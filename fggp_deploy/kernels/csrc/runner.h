// A program together with its executions by input size, and the memory of those that run now.
#pragma once
#include <map>
#include <memory>
#include <mutex>

#include "execution.h"

namespace fggp {

class Runner {
 public:
  // `tasks`: into how many pieces a large step is cut, two for each thread; 1 without threads.
  Runner(Program program, const FggpIsa& isa, int tasks);
  const Program& program() const { return program_; }

  // Planned at the first call for a size and remembered for the latest few.
  std::shared_ptr<const Execution> execution(const std::vector<ValueShape>& inputs);
  // `n` images; inputs and outputs are contiguous [n, ...].
  void run(const Execution& e, const std::vector<ValueShape>& inputs, int64_t n,
           const float* const* in, float* const* out, const Threads& threads);

 private:
  struct Memory {
    size_t floats;
    Workspace workspace;
  };
  std::unique_ptr<Memory> borrow(size_t floats);

  const Program program_;
  const FggpIsa& isa_;
  const int tasks_;
  std::mutex mutex_;
  std::map<std::vector<int64_t>, std::shared_ptr<const Execution>> executions_;
  std::vector<std::unique_ptr<Memory>> idle_;
};

}  // namespace fggp
