#include "plan/row_planes.h"

#include <algorithm>

namespace fggp {
namespace {

// Vectors of sixteen pixels in a plane: what the compiled blocks divide.
constexpr int64_t kVectors[] = {1, 2, 4, 8, 14};
// What a plane costs beside its vectors, in vectors: weights and offsets are read again.
constexpr double kPlaneCost = 0.8;
// A square of floats that is transposed at once.
constexpr size_t kSquare = 16;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// y[c][r] = x[r][c].
void transpose(const float* x, size_t x_row, size_t rows, size_t cols, float* y, size_t y_row) {
  for (size_t r = 0; r < rows; r += kSquare)
    for (size_t c = 0; c < cols; c += kSquare) {
      const size_t n_rows = std::min(kSquare, rows - r), n_cols = std::min(kSquare, cols - c);
      if (n_rows < kSquare || n_cols < kSquare) {
        for (size_t j = 0; j < n_cols; j++)
          for (size_t i = 0; i < n_rows; i++) y[(c + j) * y_row + r + i] = x[(r + i) * x_row + c + j];
        continue;
      }
      float square[kSquare][kSquare];
      for (size_t i = 0; i < kSquare; i++)
        for (size_t j = 0; j < kSquare; j++) square[j][i] = x[(r + i) * x_row + c + j];
      for (size_t j = 0; j < kSquare; j++)
        std::copy_n(square[j], kSquare, y + (c + j) * y_row + r);
    }
}

}  // namespace

std::unique_ptr<Program> over_pixels(const Program& program) {
  auto pixels = std::make_unique<Program>(program);
  bool any = false;
  for (Step& s : pixels->steps) {
    if (s.op != Op::kGemm && s.op != Op::kAdd) return nullptr;
    if (s.op == Op::kAdd) continue;
    s.op = Op::kConv;
    any = true;
  }
  return any ? std::move(pixels) : nullptr;
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

void RowPlanes::from_rows(const float* x, int64_t channels, float* y, const Threads& threads) const {
  const auto cols = static_cast<size_t>(channels), width = static_cast<size_t>(pixels);
  in_parallel(threads, static_cast<size_t>(planes), [&](size_t plane) {
    const size_t first = plane * width;
    const size_t n = std::min(width, static_cast<size_t>(rows) - first);
    float* to = y + plane * cols * width;
    transpose(x + first * cols, cols, n, cols, to, width);
    for (size_t c = 0; n < width && c < cols; c++) std::fill(to + c * width + n, to + (c + 1) * width, 0.0f);
  });
}

void RowPlanes::to_rows(const float* x, int64_t channels, float* y, const Threads& threads) const {
  const auto cols = static_cast<size_t>(channels), width = static_cast<size_t>(pixels);
  in_parallel(threads, static_cast<size_t>(planes), [&](size_t plane) {
    const size_t first = plane * width;
    const size_t n = std::min(width, static_cast<size_t>(rows) - first);
    transpose(x + plane * cols * width, width, cols, n, y + first * cols, cols);
  });
}

}  // namespace fggp
