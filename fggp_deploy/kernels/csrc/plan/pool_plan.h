// One max- or average-pooling, bound to layouts.
#pragma once
#include <vector>

#include "plan/layout.h"
#include "program/weights.h"

namespace fggp {

class PoolPlan {
 public:
  // `average` divides by the taps inside the plane, or by all of them when padding counts.
  PoolPlan(const FggpIsa& isa, const ConvShape& s, const Layout& in, const Layout& out,
           bool average, bool count_padding);
  void run(const float* x, float* y, int first, int last) const;

 private:
  const FggpIsa* isa_;
  Layout in_, out_;
  ConvShape shape_;
  std::vector<uint16_t> valid_, mask_;
  std::vector<float> scale_;
  Halo halo_;
};

}  // namespace fggp
