#include "plan/pool_plan.h"

namespace fggp {

PoolPlan::PoolPlan(const FggpIsa& isa, const ConvShape& s, const Layout& in, const Layout& out,
                   bool average, bool count_padding)
    : isa_(&isa), in_(in), out_(out), shape_(s), mask_(lane_masks(out)), halo_(out) {
  for (int i = 0; i < out.tile_h; i++)
    for (int j = 0; j < out.tile_w; j++) {
      std::vector<int> counted(static_cast<size_t>(out.lanes()), 0);
      for (int64_t a = 0; a < s.kh; a++)
        for (int64_t b = 0; b < s.kw; b++) {
          uint16_t m = 0;
          for (int k = 0; k < out.lanes(); k++) {
            const int64_t y = (out.top_of(k) + i) * s.stride_h + a * s.dilation_h - s.top;
            const int64_t x = (out.left_of(k) + j) * s.stride_w + b * s.dilation_w - s.left;
            const bool inside = y >= 0 && y < in.height && x >= 0 && x < in.width;
            if (inside) m = static_cast<uint16_t>(m | 1u << k);
            if (inside || count_padding) counted[static_cast<size_t>(k)]++;
          }
          valid_.push_back(m);
        }
      if (average)
        for (int n : counted) scale_.push_back(n ? 1.0f / static_cast<float>(n) : 0.0f);
    }
}

void PoolPlan::run(const float* x, float* y, int first, int last) const {
  const ptrdiff_t lanes = out_.lanes();
  FggpPool p;
  const ptrdiff_t row = in_.row_vectors() * lanes;
  p.x_tap_row = row * static_cast<ptrdiff_t>(shape_.dilation_h);
  p.x_tap = lanes * static_cast<ptrdiff_t>(shape_.dilation_w);
  p.x_row = row * static_cast<ptrdiff_t>(shape_.stride_h);
  p.x_step = lanes * static_cast<ptrdiff_t>(shape_.stride_w);
  p.y_row = out_.row_vectors() * lanes;
  p.rows = out_.tile_h;
  p.cols = out_.tile_w;
  p.kernel_h = static_cast<int>(shape_.kh);
  p.kernel_w = static_cast<int>(shape_.kw);
  p.valid = valid_.data();
  p.scale = scale_.empty() ? nullptr : scale_.data();
  p.mask = mask_.empty() ? nullptr : mask_.data();
  const size_t corner = in_.at(static_cast<int>(-shape_.top), static_cast<int>(-shape_.left));
  const FggpInt8x4& int8x4 = fggp_int8x4(*isa_);
  const auto pool = out_.int8x4 ? (lanes == 16 ? int8x4.pool16 : int8x4.pool4)
                               : (lanes == 16 ? isa_->pool16 : isa_->pool4);
  for (int c = first; c < last; c++) {
    p.x = x + static_cast<size_t>(c) * in_.plane() + corner;
    p.y = y + static_cast<size_t>(c) * out_.plane() + out_.at(0, 0);
    pool(&p);
  }
  halo_.fill(*isa_, out_, y, first, last);
}

}  // namespace fggp
