// One fully connected layer on a row-major vector.
#pragma once
#include <memory>
#include <vector>

#include "plan/conv_plan.h"

namespace fggp {

class GemmPlan {
 public:
  GemmPlan(const FggpIsa& isa, std::shared_ptr<const SparseRows> rows,
           std::shared_ptr<const std::vector<float>> bias, const Activation& activation);
  // Outputs [first, last); `r` is added before the activation, and may be null.
  void run(const float* x, const float* r, float* y, int first, int last) const;
  // In multiply-adds of the convolutions.
  double work() const;

 private:
  const FggpIsa* isa_;
  size_t cols_;
  std::shared_ptr<const SparseRows> rows_;  // null: dense_
  std::shared_ptr<const std::vector<float>> bias_;
  Activation activation_;
  std::vector<float> dense_;  // all weights, if many are non-zero
};

}  // namespace fggp
