#include "program/conv_shape.h"

#include <string>

#include "program/error.h"

namespace fggp {
namespace {

constexpr int64_t kMaxDim = 1 << 20;
constexpr int64_t kMaxWeights = int64_t{1} << 31;
constexpr int64_t kMaxReach = 1024;  // of a kernel with its dilation, and of padding

std::string text(int64_t v) { return std::to_string(v); }

}  // namespace

void ConvShape::check() const {
  for (int64_t v : {cout, cin, group, kh, kw, stride_h, stride_w, dilation_h, dilation_w})
    if (v < 1 || v >= kMaxDim)
      throw Error("a convolution has " + text(v) + " as size, stride, dilation or group");
  for (int64_t v : {top, left, bottom, right})
    if (v < 0 || v >= kMaxReach) throw Error("a convolution is padded by " + text(v));
  if (kh * dilation_h > kMaxReach || kw * dilation_w > kMaxReach)
    throw Error("a convolution's kernel reaches further than " + text(kMaxReach));
  if (cin % group || cout % group)
    throw Error("group " + text(group) + " does not divide " + text(cin) + " and " + text(cout));
  if (cin * taps() >= kMaxWeights || weight_size() >= kMaxWeights)
    throw Error("a weight has 2^31 elements or more");
}

int64_t ConvShape::room_h(int64_t h) const {
  if (h < 1 || h >= kMaxDim) throw Error("an input is " + text(h) + " high");
  const int64_t room = h + top + bottom - dilation_h * (kh - 1) - 1;
  if (room < 0) throw Error("a kernel is higher than its padded input of " + text(h));
  return room;
}

int64_t ConvShape::room_w(int64_t w) const {
  if (w < 1 || w >= kMaxDim) throw Error("an input is " + text(w) + " wide");
  const int64_t room = w + left + right - dilation_w * (kw - 1) - 1;
  if (room < 0) throw Error("a kernel is wider than its padded input of " + text(w));
  return room;
}

}  // namespace fggp
