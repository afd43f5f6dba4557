// Linear layers on many rows at once: rows become the pixels of planes of one row each, and a Gemm
// becomes a 1 x 1 convolution, whose kernels use a weight for sixteen pixels at a time.
#pragma once
#include <cstdint>

#include "isa/isa.h"
#include "program/program.h"

namespace fggp {

// The program for such planes; `program` is on rows.
Program over_pixels(Program program);

// `rows` rows as `planes` planes of `pixels` each; the last ones are filled up.
struct RowPlanes {
  int64_t rows, pixels, planes;

  // Of the few sizes of planes that there are (each has its own packed weights), the one that
  // `n_threads` are done with first.
  RowPlanes(int64_t rows, int n_threads);
  ValueShape shape(int64_t channels) const { return {false, false, channels, 1, pixels}; }

  // The rows of one plane of [rows, channels] to [channels, pixels], zeros in the pixels that are no
  // row; and back.
  void from_rows(const FggpIsa& isa, const float* x, int64_t channels, int64_t plane, float* y) const;
  void to_rows(const FggpIsa& isa, const float* x, int64_t channels, int64_t plane, float* y) const;
};

}  // namespace fggp
