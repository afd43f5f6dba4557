#include "plan/row_planes.h"

#include <algorithm>

namespace fggp {
namespace {

// Vectors of sixteen pixels in a plane: so few that the nearest cache holds the plane of each channel,
// from which each weight reads at random.
constexpr int64_t kVectors[] = {1, 2};
// What a plane costs beside its vectors, in vectors: weights and offsets are read again.
constexpr double kPlaneCost = 0.8;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Program over_pixels(Program program) {
  for (Step& s : program.steps)
    if (s.op == Op::kGemm) s.op = Op::kConv;
  return program;
}

RowPlanes::RowPlanes(int64_t n_rows, int n_threads) : rows(n_rows), pixels(0), planes(0) {
  double least = 0;
  for (const int64_t vectors : kVectors) {
    const int64_t n = ceil_div(rows, 16 * vectors);
    const double cost = static_cast<double>(ceil_div(n, n_threads)) *
                        (static_cast<double>(vectors) + kPlaneCost);
    if (planes && cost >= least) continue;
    least = cost;
    pixels = 16 * vectors;
    planes = n;
  }
}

void RowPlanes::from_rows(const FggpIsa& isa, const float* x, int64_t channels, int64_t plane,
                          float* y) const {
  const auto cols = static_cast<size_t>(channels), width = static_cast<size_t>(pixels);
  const auto first = static_cast<size_t>(plane * pixels);
  const size_t n = std::min(width, static_cast<size_t>(rows) - first);
  const FggpTranspose t{x + first * cols, cols, n, cols, y, width};
  isa.transpose(&t);
  for (size_t c = 0; n < width && c < cols; c++) std::fill(y + c * width + n, y + (c + 1) * width, 0.0f);
}

void RowPlanes::to_rows(const FggpIsa& isa, const float* x, int64_t channels, int64_t plane,
                        float* y) const {
  const auto cols = static_cast<size_t>(channels);
  const auto first = static_cast<size_t>(plane * pixels);
  const size_t n = std::min(static_cast<size_t>(pixels), static_cast<size_t>(rows) - first);
  const FggpTranspose t{x, static_cast<size_t>(pixels), cols, n, y + first * cols, cols};
  isa.transpose(&t);
}

}  // namespace fggp
