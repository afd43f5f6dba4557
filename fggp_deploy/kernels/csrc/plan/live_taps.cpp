#include "plan/live_taps.h"

#include <utility>

namespace fggp {
namespace {

// One axis of a window over `size` elements, with `positions` places of the window.
struct Axis {
  int64_t taps, stride, dilation, before, after, size, positions;

  // Whether a tap is inside the input at any place of the window.
  bool meets_input(int64_t tap) const {
    const int64_t first = before - tap * dilation;  // where the input begins, seen from the tap
    const int64_t place = first <= 0 ? 0 : (first + stride - 1) / stride;
    return place < positions && place * stride < first + size;
  }
  // The first tap that is kept and the number of them. Padding never becomes negative.
  std::pair<int64_t, int64_t> live() const {
    int64_t first = 0, end = taps;
    while (end - first > 1 && (first + 1) * dilation <= before && !meets_input(first)) first++;
    while (end - first > 1 && (taps - end + 1) * dilation <= after && !meets_input(end - 1)) end--;
    return {first, end - first};
  }
};

}  // namespace

Taps live_taps(const ConvShape& s, int64_t in_h, int64_t in_w) {
  const Axis down{s.kh, s.stride_h, s.dilation_h, s.top, s.bottom, in_h, s.out_h(in_h)};
  const Axis across{s.kw, s.stride_w, s.dilation_w, s.left, s.right, in_w, s.out_w(in_w)};
  Taps taps;
  std::tie(taps.row, taps.rows) = down.live();
  std::tie(taps.column, taps.columns) = across.live();
  return taps;
}

ConvShape with_taps(ConvShape s, const Taps& taps) {
  s.top -= taps.row * s.dilation_h;
  s.left -= taps.column * s.dilation_w;
  s.bottom -= (s.kh - taps.row - taps.rows) * s.dilation_h;
  s.right -= (s.kw - taps.column - taps.columns) * s.dilation_w;
  s.kh = taps.rows;
  s.kw = taps.columns;
  return s;
}

SparseRows with_taps(const SparseRows& rows, const ConvShape& s, const Taps& taps) {
  SparseRows out;
  out.cols = static_cast<int>(rows.cols / s.taps() * taps.count());
  out.scale = rows.scale;
  for (size_t o = 0; o + 1 < rows.begin.size(); o++) {
    for (uint32_t e = rows.begin[o]; e < rows.begin[o + 1]; e++) {
      const int64_t channel = rows.column[e] / s.taps(), tap = rows.column[e] % s.taps();
      const int64_t row = tap / s.kw - taps.row, column = tap % s.kw - taps.column;
      if (row < 0 || row >= taps.rows || column < 0 || column >= taps.columns) continue;
      out.column.push_back(static_cast<uint32_t>(channel * taps.count() + row * taps.columns + column));
      out.value.push_back(rows.value[e]);
      if (!rows.quantized.empty()) out.quantized.push_back(rows.quantized[e]);
    }
    out.begin.push_back(static_cast<uint32_t>(out.column.size()));
  }
  return out;
}

}  // namespace fggp
