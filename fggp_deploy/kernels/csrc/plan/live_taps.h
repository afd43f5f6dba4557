// The taps of a window that meet an input of a given size. The others only ever meet its padding, as all
// but the middle one of a 3 x 3 kernel on a 1 x 1 plane do, and need not be multiplied.
#pragma once
#include <tuple>

#include "program/conv_shape.h"
#include "program/weights.h"

namespace fggp {

// A range of the kernel's rows, and one of its columns.
struct Taps {
  int64_t row = 0, rows = 1, column = 0, columns = 1;
  int64_t count() const { return rows * columns; }
  bool operator<(const Taps& o) const {
    return std::tie(row, rows, column, columns) < std::tie(o.row, o.rows, o.column, o.columns);
  }
};

// The smallest ranges that hold every tap that meets the input, cut only while padding stays non-negative.
Taps live_taps(const ConvShape& s, int64_t in_h, int64_t in_w);
// The convolution with only these taps; its output is the same.
ConvShape with_taps(ConvShape s, const Taps& taps);
SparseRows with_taps(const SparseRows& rows, const ConvShape& s, const Taps& taps);

}  // namespace fggp
