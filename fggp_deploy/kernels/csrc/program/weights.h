// Constant weights as they come out of a file, checked, and as rows of non-zeros.
#pragma once
#include <cstdint>
#include <vector>

#include "plan/layout.h"

namespace fggp {

enum class Type { kFloat, kFloat16, kInt8, kUint8, kUint16 };

// A tensor that somebody else owns; nothing about it is trusted.
struct Tensor {
  const void* data = nullptr;
  size_t count = 0;
  Type type = Type::kFloat;
};

// What a convolution does. A Gemm is a convolution with a 1 x 1 kernel.
struct ConvShape {
  int64_t cout = 0, cin = 0, group = 1, kh = 1, kw = 1;
  int64_t stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1;
  int64_t top = 0, left = 0, bottom = 0, right = 0;

  int64_t taps() const { return kh * kw; }
  // Throws an Error unless every value is sane and products of them fit 63 bits.
  void check() const;
  // How far the window can move over an input of h x w; throws where it does not fit.
  int64_t room_h(int64_t h) const;
  int64_t room_w(int64_t w) const;
  // The output's height and width for an input of h x w.
  int64_t out_h(int64_t h) const { return room_h(h) / stride_h + 1; }
  int64_t out_w(int64_t w) const { return room_w(w) / stride_w + 1; }
};

// Rows of non-zeros; a column is (input channel, kernel row, kernel column), row-major.
struct SparseRows {
  int cols = 0;
  std::vector<uint32_t> begin{0};
  std::vector<uint32_t> column;
  std::vector<float> value;
  // Where values are whole numbers times a unit of their row: those numbers and units; else empty.
  std::vector<int8_t> whole;
  std::vector<float> unit;

  int rows() const { return static_cast<int>(begin.size()) - 1; }
  size_t nonzeros() const { return column.size(); }
};

// Decodes values and gaps: W.flat[cumsum(gaps) - 1] = values. Throws an Error unless the types are
// right, the counts agree, every gap is at least one and every index lies inside the weight.
SparseRows decode_gaps(const Tensor& values, const Tensor& gaps, const ConvShape& shape);
// Decodes int8 values at the places that a Rice code tells (docs/format.md), times one scale for
// each output channel or for all. Throws an Error unless the types are right, every scale is
// positive and no more than 1e36, `high` ends as many entries as there are values, and every index
// lies inside the weight.
SparseRows decode_rice(const Tensor& values, const Tensor& scales, const Tensor& high,
                       const Tensor& low, const ConvShape& shape);
// The non-zeros of a dense weight; throws an Error unless type and count fit the shape.
SparseRows from_dense(const Tensor& weight, const ConvShape& shape);
// The same with the zeros of each row among the entries: what multiplies them gives 0 x NaN = NaN.
SparseRows with_zeros(const SparseRows& rows, const ConvShape& shape);
// A float or float16 vector of exactly `count` elements, as float.
std::vector<float> decode_floats(const Tensor& t, size_t count, const char* what);

}  // namespace fggp
