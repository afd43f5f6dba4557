#include "program/weights.h"

#include <cstring>
#include <string>

#include "program/error.h"

namespace fggp {
namespace {

float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  uint32_t exponent = h >> 10 & 31u, mantissa = h & 1023u, bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000u | mantissa << 13;
  } else if (exponent) {
    bits = sign | (exponent + 112) << 23 | mantissa << 13;
  } else {
    float v = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // subnormal: m * 2^-24
    return sign ? -v : v;
  }
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

float float_at(const Tensor& t, size_t i) {
  if (t.type == Type::kFloat) return static_cast<const float*>(t.data)[i];
  return half_to_float(static_cast<const uint16_t*>(t.data)[i]);
}

void need_floats(const Tensor& t, const char* what) {
  if (t.type != Type::kFloat && t.type != Type::kFloat16)
    throw Error(std::string(what) + " must be float or float16");
}

std::string text(int64_t v) { return std::to_string(v); }

// Appends one non-zero whose place in the flat weight is known to lie inside it.
void append(SparseRows& m, const ConvShape& s, int64_t flat, float value) {
  const int64_t row_size = s.row_size();
  const int64_t row = flat / row_size;
  const int64_t first_channel = row / (s.cout / s.group) * (s.cin / s.group);
  while (static_cast<int64_t>(m.begin.size()) <= row)
    m.begin.push_back(static_cast<uint32_t>(m.column.size()));
  m.column.push_back(static_cast<uint32_t>(first_channel * s.taps() + flat % row_size));
  m.value.push_back(value);
}

void close(SparseRows& m, const ConvShape& s) {
  m.cols = static_cast<int>(s.cin * s.taps());
  while (static_cast<int64_t>(m.begin.size()) <= s.cout)
    m.begin.push_back(static_cast<uint32_t>(m.column.size()));
}

}  // namespace

SparseRows decode_gaps(const Tensor& values, const Tensor& gaps, const ConvShape& shape) {
  need_floats(values, "values");
  if (gaps.type != Type::kUint8 && gaps.type != Type::kUint16)
    throw Error("gaps must be uint8 or uint16");
  if (values.count != gaps.count)
    throw Error(text(static_cast<int64_t>(values.count)) + " values but " +
                text(static_cast<int64_t>(gaps.count)) + " gaps");
  const int64_t size = shape.weight_size();
  SparseRows m;
  int64_t flat = -1;
  for (size_t i = 0; i < gaps.count; i++) {
    const int64_t gap = gaps.type == Type::kUint8 ? static_cast<const uint8_t*>(gaps.data)[i]
                                                  : static_cast<const uint16_t*>(gaps.data)[i];
    flat += gap;
    if (gap == 0) throw Error("gap " + text(static_cast<int64_t>(i)) + " is 0");
    if (flat >= size)
      throw Error("the gaps lead to element " + text(flat) + " of a weight of " + text(size));
    // Fillers for gaps that do not fit their type are stored zeros: they multiply nothing.
    const float v = float_at(values, i);
    if (v != 0.0f) append(m, shape, flat, v);
  }
  close(m, shape);
  return m;
}

SparseRows decode_rice(const Tensor& values, const Tensor& scales, const Tensor& high,
                       const Tensor& low, const ConvShape& shape) {
  if (values.type != Type::kInt8) throw Error("values must be int8");
  if (high.type != Type::kUint8 || low.type != Type::kUint8)
    throw Error("high and low must be uint8");
  need_floats(scales, "scales");
  if (scales.count != 1 && static_cast<int64_t>(scales.count) != shape.cout)
    throw Error("there are " + text(static_cast<int64_t>(scales.count)) + " scales for " +
                text(shape.cout) + " output channels");
  std::vector<float> factors = decode_floats(scales, scales.count, "scales");
  for (float f : factors)
    if (!(f > 0.0f && f <= 1e36f)) throw Error("a scale is not above 0 and at most 1e36");
  factors.resize(static_cast<size_t>(shape.cout), factors[0]);
  const size_t n = values.count, row_bytes = (n + 7) / 8;
  const size_t k = row_bytes ? low.count / row_bytes : 0;
  if (k < 1 || k > 16 || k * row_bytes != low.count)
    throw Error("low has " + text(static_cast<int64_t>(low.count)) + " bytes for " +
                text(static_cast<int64_t>(n)) + " values");
  const int64_t size = shape.weight_size();
  const auto* quantized = static_cast<const int8_t*>(values.data);
  const auto* ends = static_cast<const uint8_t*>(high.data);
  const auto* rests = static_cast<const uint8_t*>(low.data);
  SparseRows m;
  int64_t flat = -1, quotient = 0;
  size_t i = 0;  // the entry that the next bits belong to
  for (size_t b = 0; b < 8 * high.count; b++) {
    if (!(ends[b / 8] >> b % 8 & 1)) {
      quotient++;
      continue;
    }
    if (i == n) throw Error("high ends more entries than there are values");
    int64_t rest = 0;
    for (size_t j = 0; j < k; j++)
      rest |= static_cast<int64_t>(rests[j * row_bytes + i / 8] >> i % 8 & 1) << j;
    if (quotient > size) throw Error("the entries lead past a weight of " + text(size));
    flat += (quotient << k) + rest + 1;
    if (flat >= size)
      throw Error("the entries lead to element " + text(flat) + " of a weight of " + text(size));
    if (quantized[i] != 0) {
      const auto row = static_cast<size_t>(flat / (size / shape.cout));
      append(m, shape, flat, static_cast<float>(quantized[i]) * factors[row]);
      m.quantized.push_back(quantized[i]);
    }
    quotient = 0;
    i++;
  }
  if (i != n)
    throw Error("high ends " + text(static_cast<int64_t>(i)) + " entries but there are " +
                text(static_cast<int64_t>(n)) + " values");
  close(m, shape);
  m.scale = std::move(factors);
  return m;
}

SparseRows from_dense(const Tensor& weight, const ConvShape& shape) {
  need_floats(weight, "a weight");
  const int64_t size = shape.weight_size();
  if (static_cast<int64_t>(weight.count) != size)
    throw Error("a weight has " + text(static_cast<int64_t>(weight.count)) + " elements, not " +
                text(size));
  SparseRows m;
  for (int64_t i = 0; i < size; i++) {
    const float v = float_at(weight, static_cast<size_t>(i));
    if (v != 0.0f) append(m, shape, i, v);
  }
  close(m, shape);
  return m;
}

SparseRows with_zeros(const SparseRows& rows, const ConvShape& shape) {
  const int64_t row_size = shape.row_size();
  SparseRows out;
  out.cols = rows.cols;
  out.scale = rows.scale;
  for (int64_t o = 0; o < shape.cout; o++) {
    const auto row = static_cast<size_t>(o);
    uint32_t e = rows.begin[row];
    auto column = static_cast<uint32_t>(o / (shape.cout / shape.group) * row_size);
    for (int64_t i = 0; i < row_size; i++, column++) {
      const bool has = e < rows.begin[row + 1] && rows.column[e] == column;
      out.column.push_back(column);
      out.value.push_back(has ? rows.value[e] : 0.0f);
      if (!rows.quantized.empty()) out.quantized.push_back(has ? rows.quantized[e] : int8_t{0});
      e += has;
    }
    out.begin.push_back(static_cast<uint32_t>(out.column.size()));
  }
  return out;
}

std::vector<float> decode_floats(const Tensor& t, size_t count, const char* what) {
  need_floats(t, what);
  if (t.count != count)
    throw Error(std::string(what) + " has " + text(static_cast<int64_t>(t.count)) +
                " elements, not " + text(static_cast<int64_t>(count)));
  std::vector<float> out(count);
  for (size_t i = 0; i < count; i++) out[i] = float_at(t, i);
  return out;
}

}  // namespace fggp
