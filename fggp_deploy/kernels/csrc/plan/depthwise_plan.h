// One depthwise convolution, bound to layouts: each output channel reads one input channel. With
// a single tap of weight 1 it is an addition, an activation or both.
#pragma once
#include <vector>

#include "plan/conv_plan.h"

namespace fggp {

class DepthwisePlan {
 public:
  DepthwisePlan(const FggpIsa& isa, const ConvShape& s, const Activation& activation, const Layout& in,
                const Layout& residual, const Layout& out);
  void set_weights(const SparseRows& rows, const std::vector<float>& bias);
  // Every output channel is its input channel.
  void set_identity();
  // Output channels [first, last), with their halos; `r` may be null. `x` starts at input channel
  // `origin`.
  void run(const float* x, const float* r, float* y, int first, int last, int origin = 0) const;
  // Output channels for each input channel.
  int multiplier() const { return static_cast<int>(shape_.cout / shape_.cin); }

 private:
  const FggpIsa* isa_;
  ConvShape shape_;
  Activation activation_;
  Layout in_, residual_, out_;
  std::vector<uint32_t> begin_;  // first non-zero tap of each output channel
  std::vector<ptrdiff_t> tap_;
  std::vector<float> weight_, bias_;
  std::vector<uint16_t> mask_;
  Halo halo_;
};

// Whether a convolution is one that a DepthwisePlan computes.
inline bool is_depthwise(const ConvShape& s) { return s.group > 1 && s.group == s.cin; }

}  // namespace fggp
