// A program together with its executions by input size, and the memory of those that run now.
#pragma once
#include <memory>
#include <mutex>

#include "plan/dense_rows.h"
#include "plan/execution.h"
#include "plan/row_planes.h"
#include "plan/thread_choice.h"

namespace fggp {

class Runner {
 public:
  Runner(Program program, const FggpIsa& isa, const Sharing& sharing);
  const Program& program() const { return program_; }

  // The outputs for one image of such inputs; throws an Error if they do not fit the program.
  std::vector<ValueShape> outputs(const std::vector<ValueShape>& inputs) const;
  // Runs `n` images; inputs and outputs are contiguous [n, ...]. NaN and infinities reach the outputs
  // as if every weight, zeros included, were multiplied.
  void run(const std::vector<ValueShape>& inputs, int64_t n, const float* const* in,
           float* const* out, const Threads& threads);
  // How one image runs; planned at the first call for a size and remembered for the latest few.
  std::shared_ptr<const Execution> execution(const std::vector<ValueShape>& inputs) {
    const std::shared_ptr<Planned> p = planned(inputs, Kind::kSingle);
    return {p, &p->execution};
  }

 private:
  struct Memory {
    size_t floats;
    Workspace workspace;
  };
  struct Batch {
    const std::vector<ValueShape>& inputs;
    int64_t n;
    const float* const* in;
    float* const* out;
    const Threads& threads;
    // If not null, the images are planes of these rows, which `in` and `out` hold.
    const RowPlanes* rows;
  };
  struct Planned {
    const Execution execution;
    ThreadChoice choice;
    Planned(const Program& program, const FggpIsa& isa, const std::vector<ValueShape>& inputs,
            const Sharing& sharing, Packings& packings, int images)
        : execution(program, isa, inputs, sharing, packings, images) {}
  };
  enum class Kind { kSingle, kGroup, kZeros };  // one image, some, or one with all zeros multiplied
  struct Entry {  // of one input size
    std::vector<int64_t> key;
    std::mutex mutex;  // held while planning
    std::shared_ptr<Planned> planned;
  };
  struct Slot;
  std::shared_ptr<Planned> planned(const std::vector<ValueShape>& inputs, Kind kind);
  std::shared_ptr<Entry> remembered(const std::vector<int64_t>& key);
  const Program& zeros_program();
  std::vector<int64_t> run_images(Planned& planned, const Batch& batch,
                                  const std::vector<int64_t>& images);
  std::vector<int64_t> run_groups(Planned& single, const Batch& batch);
  void run_batch(const Batch& batch);
  void run_rows(const Batch& batch);
  void run_planes(const Batch& rows, const RowPlanes& planes);
  const DenseRows& dense_rows();
  std::unique_ptr<Memory> borrow(size_t floats);
  void give_back(std::unique_ptr<Memory> memory);

  const Program program_;
  const FggpIsa& isa_;
  const Sharing sharing_;
  // For many rows at once; null unless the program is on rows. `dense_rows_` is null until it is needed.
  std::unique_ptr<Runner> over_pixels_;
  std::unique_ptr<const DenseRows> dense_rows_;
  std::mutex mutex_;
  Packings packings_;
  std::unique_ptr<const Program> zeros_program_;  // that multiplies zeros; null until it is needed
  std::vector<std::shared_ptr<Entry>> entries_;   // the latest first
  std::vector<std::unique_ptr<Memory>> idle_;
};

}  // namespace fggp
