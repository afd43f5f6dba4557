// Constant weights: read from a file, checked, and stored as rows of non-zeros.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "program/conv_shape.h"

namespace fggp {

enum class Type { kFloat, kFloat16, kInt8, kUint8, kUint16 };

// A tensor in memory that the caller owns; nothing about it is trusted.
struct Tensor {
  const void* data = nullptr;
  size_t count = 0;
  Type type = Type::kFloat;
};

// Rows of non-zeros; a column is (input channel, kernel row, kernel column), row-major.
struct SparseRows {
  int cols = 0;
  std::vector<uint32_t> begin{0};
  std::vector<uint32_t> column;
  std::vector<float> value;
  // If the weight is stored as int8: the integers, and the scale of each row. Else empty.
  std::vector<int8_t> quantized;
  std::vector<float> scale;

  size_t nonzeros() const { return column.size(); }
};

// Decodes values and gaps: W.flat[cumsum(gaps) - 1] = values. Throws an Error unless the types are
// right, the counts agree, every gap is at least one and every index lies inside the weight.
SparseRows decode_gaps(const Tensor& values, const Tensor& gaps, const ConvShape& shape);
// Decodes int8 values at the places that a Rice code gives (docs/format.md), times one scale for
// each output channel or for all. Throws an Error unless the types are right, every scale is
// positive and no more than 1e36, `high` ends as many entries as there are values, and every index
// lies inside the weight.
SparseRows decode_rice(const Tensor& values, const Tensor& scales, const Tensor& high,
                       const Tensor& low, const ConvShape& shape);
// The non-zeros of a dense weight; throws an Error unless type and count fit the shape.
SparseRows from_dense(const Tensor& weight, const ConvShape& shape);
// The same with the zeros of each row among the entries, so that 0 x NaN = NaN reaches the output.
SparseRows with_zeros(const SparseRows& rows, const ConvShape& shape);
// A float or float16 vector of exactly `count` elements, as float.
std::vector<float> decode_floats(const Tensor& t, size_t count, const char* what);

}  // namespace fggp
