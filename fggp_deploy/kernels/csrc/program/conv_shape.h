// The geometry of a convolution, a pooling or a linear layer.
#pragma once
#include <cstdint>

namespace fggp {

// A Gemm is a convolution with a 1 x 1 kernel. All counts and distances are in elements.
struct ConvShape {
  int64_t cout = 1, cin = 1, group = 1, kh = 1, kw = 1;
  int64_t stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1;
  int64_t top = 0, left = 0, bottom = 0, right = 0;

  int64_t taps() const { return kh * kw; }
  // Elements of the weight, and of its row for one output channel.
  int64_t row_size() const { return cin / group * taps(); }
  int64_t weight_size() const { return row_size() * cout; }
  // Throws an Error unless every value is sane and their products fit 63 bits.
  void check() const;
  // How far the window can move over an input of height h or width w; throws an Error if it does not
  // fit.
  int64_t room_h(int64_t h) const;
  int64_t room_w(int64_t w) const;
  // The output's height and width for an input of height h and width w.
  int64_t out_h(int64_t h) const { return room_h(h) / stride_h + 1; }
  int64_t out_w(int64_t w) const { return room_w(w) / stride_w + 1; }
};

}  // namespace fggp
