// Linear layers on many rows with every weight multiplied: if weights have few zeros, this is faster
// than kernels that skip the zeros.
#pragma once
#include <vector>

#include "isa/isa.h"
#include "plan/threads.h"
#include "program/program.h"

namespace fggp {

class DenseRows {
 public:
  // `program` is on rows, and must outlive this.
  DenseRows(const Program& program, const FggpIsa& isa);
  // Memory for `rows` rows of all `values` (of infer_shapes).
  size_t scratch_floats(int64_t rows, const std::vector<ValueShape>& values) const;
  // Inputs and outputs are [rows, channels].
  void run(int64_t rows, const std::vector<ValueShape>& values, const float* const* in,
           float* const* out, float* scratch, const Threads& threads, const Sharing& sharing) const;

 private:
  // Of a Gemm: [panel][input channel][output channel of the panel], and the bias of whole panels.
  struct Panels {
    std::vector<float> weight, bias;
  };
  void multiply(const Step& s, const Panels& panels, int64_t rows, const float* x, float* y,
                const Activation& activation, const Threads& threads, const Sharing& sharing) const;

  const Program& program_;
  const FggpIsa& isa_;
  std::vector<Panels> panels_;  // of each step
};

}  // namespace fggp
