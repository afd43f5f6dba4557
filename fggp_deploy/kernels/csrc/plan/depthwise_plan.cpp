#include "plan/depthwise_plan.h"

namespace fggp {

DepthwisePlan::DepthwisePlan(const FggpIsa& isa, const ConvShape& s, const Activation& activation,
                             const Layout& in, const Layout& residual, const Layout& out)
    : isa_(&isa),
      shape_(s),
      activation_(activation),
      in_(in),
      residual_(residual),
      out_(out),
      mask_(lane_masks(out)),
      halo_(out) {}

void DepthwisePlan::set_weights(const SparseRows& rows, const std::vector<float>& bias) {
  begin_ = rows.begin;
  weight_ = rows.value;
  bias_ = bias;
  tap_.clear();
  for (uint32_t column : rows.column) {
    const int64_t tap = column % shape_.taps();
    tap_.push_back(in_.lanes() * (tap / shape_.kw * shape_.dilation_h * in_.row_vectors() +
                                  tap % shape_.kw * shape_.dilation_w));
  }
}

void DepthwisePlan::set_identity() {
  const auto channels = static_cast<size_t>(shape_.cout);
  begin_.resize(channels + 1);
  for (size_t c = 0; c <= channels; c++) begin_[c] = static_cast<uint32_t>(c);
  tap_.assign(channels, 0);
  weight_.assign(channels, 1.0f);
  bias_.assign(channels, 0.0f);
}

void DepthwisePlan::run(const float* x, const float* r, float* y, int first, int last,
                        int origin) const {
  const ptrdiff_t lanes = out_.lanes();
  FggpDepthwise p;
  p.x_row = in_.row_vectors() * lanes * static_cast<ptrdiff_t>(shape_.stride_h);
  p.x_step = lanes * static_cast<ptrdiff_t>(shape_.stride_w);
  p.y_row = out_.row_vectors() * lanes;
  p.residual_row = residual_.row_vectors() * lanes;
  p.rows = out_.tile_h;
  p.cols = out_.tile_w;
  p.mask = mask_.empty() ? nullptr : mask_.data();
  p.activation = activation_;
  const bool square = shape_.kh == 3 && shape_.kw == 3 && shape_.dilation_w == 1;
  const ptrdiff_t square_row = in_.row_vectors() * lanes * static_cast<ptrdiff_t>(shape_.dilation_h);
  const size_t corner = in_.at(static_cast<int>(-shape_.top), static_cast<int>(-shape_.left));
  for (int c = first; c < last; c++) {
    const auto channel = static_cast<size_t>(c);
    p.x = x + static_cast<size_t>(c / multiplier() - origin) * in_.plane() + corner;
    p.y = y + channel * out_.plane() + out_.at(0, 0);
    p.residual = r ? r + channel * residual_.plane() + residual_.at(0, 0) : nullptr;
    p.tap = tap_.data() + begin_[channel];
    p.weight = weight_.data() + begin_[channel];
    p.n_taps = static_cast<int>(begin_[channel + 1] - begin_[channel]);
    p.bias = bias_[channel];
    p.square_row = square && p.n_taps == 9 ? square_row : 0;
    (lanes == 16 ? isa_->depthwise16 : isa_->depthwise4)(&p);
    halo_.fill(*isa_, out_, y, c, c + 1);  // while the plane is in the nearest cache
  }
}

}  // namespace fggp
