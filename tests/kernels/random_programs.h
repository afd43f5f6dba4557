// Random kernel programs as the library reads them: integers and constant tensors.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "program/error.h"
#include "program/program.h"

using namespace fggp;

namespace {

std::mt19937 rng(1);

int64_t pick(int64_t low, int64_t high) {
  return low + static_cast<int64_t>(rng() % static_cast<uint32_t>(high - low + 1));
}

struct Example {
  std::vector<int64_t> code;
  std::vector<std::vector<float>> floats;
  std::vector<std::vector<uint8_t>> bytes;  // gaps, or what a Rice code consists of
  std::vector<Tensor> constants;
  ValueShape input;
};

size_t element_size(Type t) {
  return t == Type::kFloat ? 4 : t == Type::kFloat16 || t == Type::kUint16 ? 2 : 1;
}

void add_bytes(Example& c, std::vector<uint8_t> bytes, Type type) {
  c.bytes.push_back(std::move(bytes));
  c.bytes.back().shrink_to_fit();
  c.constants.push_back({c.bytes.back().data(), c.bytes.back().size(), type});
}

// The constants of a weight with int8 values, 1 to `sparse` places apart.
void add_rice(Example& c, int64_t size, int64_t cout, int64_t sparse, float scale) {
  const int k = static_cast<int>(pick(1, 5));
  std::vector<uint8_t> values, high;
  std::vector<int64_t> distances;
  for (int64_t at = pick(0, size - 1), last = -1; at < size; last = at, at += pick(1, sparse)) {
    distances.push_back(at - last - 1);
    values.push_back(static_cast<uint8_t>(pick(0, 255)));
  }
  const size_t row = (values.size() + 7) / 8;
  std::vector<uint8_t> low(row * static_cast<size_t>(k));
  size_t bit = 0;
  for (size_t i = 0; i < distances.size(); i++) {
    bit += static_cast<size_t>(distances[i] >> k);
    high.resize(bit / 8 + 1);
    high[bit / 8] |= static_cast<uint8_t>(1 << bit % 8);
    bit++;
    for (int j = 0; j < k; j++)
      if (distances[i] >> j & 1)
        low[static_cast<size_t>(j) * row + i / 8] |= static_cast<uint8_t>(1 << i % 8);
  }
  add_bytes(c, values, Type::kInt8);
  c.floats.emplace_back(pick(0, 1) ? static_cast<size_t>(cout) : 1, scale);
  c.constants.push_back({c.floats.back().data(), c.floats.back().size(), Type::kFloat});
  add_bytes(c, high, Type::kUint8);
  add_bytes(c, low, Type::kUint8);
}

// Tensors live in exact-size allocations, so that reading one element too many is seen.
void add_gaps(Example& c, int64_t size) {
  std::vector<float> values;
  std::vector<uint8_t> gaps;
  for (int64_t at = pick(0, 9), last = -1; at < size; last = at, at += pick(1, 12)) {
    gaps.push_back(static_cast<uint8_t>(at - last));
    values.push_back(static_cast<float>(pick(-99, 99)) / 100);
  }
  c.floats.push_back(values);
  c.constants.push_back({c.floats.back().data(), values.size(), Type::kFloat});
  add_bytes(c, gaps, Type::kUint8);
}

void add_bias(Example& c, int64_t cout) {
  c.floats.emplace_back(static_cast<size_t>(cout), 0.5f);
  c.constants.push_back({c.floats.back().data(), static_cast<size_t>(cout), Type::kFloat});
}

struct Shape {
  int64_t channels, height, width;
  bool flat;
  bool operator==(const Shape& o) const {
    return channels == o.channels && height == o.height && width == o.width && flat == o.flat;
  }
};

// A program under construction: a step may read any earlier value.
struct Maker {
  Example example;
  std::vector<Shape> values;
  Program program{1, {}, {}};
  // Every factor is a power of two and the input of every convolution is rounded, so that all sums are
  // exact and quantizing them has one possible result: for programs with int8x4.
  bool exact = false;
  std::vector<bool> rounded{true};  // or it is the input of the program

  int64_t n_steps() const { return static_cast<int64_t>(program.steps.size()); }

  // Appends a step. `shape` is the shape of its output; `like` says whether a residual may be added.
  void add(Op op, int64_t input, Shape shape, bool like, bool clamp, int64_t group, int64_t kernel,
           int64_t stride, int64_t dilation, int64_t pad) {
    Step s;
    s.op = op;
    s.input = static_cast<int>(input);
    s.format = !exact && pick(0, 2) ? Format::kGaps : Format::kRice;
    const bool maybe = exact && !shape.flat && (op == Op::kConv || op == Op::kAdd) && pick(0, 4);
    const bool quantized = op == Op::kRound || maybe;
    rounded.push_back(quantized || (op == Op::kMaxPool && rounded[static_cast<size_t>(input)]));
    for (size_t i = 0; like && i < values.size(); i++)
      if (values[i] == shape && pick(0, 1)) s.residual = static_cast<int>(i);
    s.constant = static_cast<int>(op == Op::kRound ? pick(0, 255)
                                                   : static_cast<int64_t>(example.constants.size()));
    if (clamp && pick(0, 1)) s.activation = {kFggpClamp, 0.25f, 6.0f};
    ConvShape& c = s.shape;
    c.cout = shape.channels;
    c.cin = values[static_cast<size_t>(input)].channels;
    c.group = group;
    c.kh = c.kw = kernel;
    c.stride_h = c.stride_w = stride;
    c.dilation_h = c.dilation_w = dilation;
    c.top = c.left = c.bottom = c.right = pad;
    s.count_padding = pick(0, 1) == 1;
    s.variant = {static_cast<int>(pick(-1, 59)), static_cast<int>(pick(1, 4))};
    if (quantized) s.scale = std::ldexp(1.0f, -static_cast<int>(pick(1, 5)));
    program.steps.push_back(s);
    if (op == Op::kConv || op == Op::kGemm) {
      const int64_t size = c.weight_size();
      if (s.format == Format::kRice)
        add_rice(example, size, shape.channels, exact ? 8 : 60, exact ? 0.0078125f : 0.01f);
      else
        add_gaps(example, size);
      add_bias(example, shape.channels);
    }
    values.push_back(shape);
  }

  // Appends one step on a plane; returns false if the kernel that was drawn does not fit.
  bool random_step() {
    int64_t input = static_cast<int64_t>(values.size()) - 1;
    if (pick(0, 4) == 0) input = pick(0, input);
    if (exact && pick(0, 3) == 0) {
      add(Op::kRound, input, values[static_cast<size_t>(input)], false, false, 1, 1, 1, 1, 0);
      return true;
    }
    while (exact && !rounded[static_cast<size_t>(input)]) input--;
    const Shape in = values[static_cast<size_t>(input)];
    const int64_t what = pick(0, 9);
    if (exact && what == 2) return true;  // an average is not exact
    if (what == 0) {
      add(Op::kAdd, input, in, true, true, 1, 1, 1, 1, 0);
      return true;
    }
    const bool pool = what < 3;
    const int64_t kernel = pick(1, 3), stride = pick(1, 3), dilation = pick(0, 3) ? 1 : 2;
    // Of a convolution also so wide that some taps meet nothing else.
    const int64_t pad = pool ? (dilation > 1 ? 0 : kernel / 2) : pick(0, dilation * (kernel - 1));
    const int64_t room_h = in.height + 2 * pad - dilation * (kernel - 1) - 1;
    const int64_t room_w = in.width + 2 * pad - dilation * (kernel - 1) - 1;
    if (room_h < 0 || room_w < 0) return false;
    const int64_t group = pool || what > 5 ? 1 : what > 3 || in.channels % 2 ? in.channels : 2;
    Shape out{in.channels, room_h / stride + 1, room_w / stride + 1, false};
    if (!pool) out.channels = group * pick(1, group == 1 ? 24 : 3);
    const Op op = !pool ? Op::kConv : what == 1 ? Op::kMaxPool : Op::kAveragePool;
    add(op, input, out, !pool, !pool, group, kernel, stride, dilation, pad);
    return true;
  }
};

[[maybe_unused]] Example random_example() {
  Maker m;
  Example& c = m.example;
  c.floats.reserve(64);
  c.bytes.reserve(64);
  m.exact = pick(0, 1);
  const int64_t side = pick(0, 2) ? 30 : 4;
  c.input = {false, false, pick(1, 20), pick(1, side), pick(1, side)};
  m.values.push_back({c.input.channels, c.input.height, c.input.width, false});
  const int64_t n = pick(1, 6);
  while (m.n_steps() < n)
    if (!m.random_step()) return random_example();
  const int64_t plane = m.n_steps();
  if (pick(0, 2) == 0) {  // a classifier
    const int64_t channels = m.values.back().channels;
    m.add(Op::kGlobalAverage, plane, {channels, 1, 1, true}, false, false, 1, 1, 1, 1, 0);
    m.add(Op::kFlatten, plane + 1, {channels, 1, 1, true}, false, false, 1, 1, 1, 1, 0);
    m.add(Op::kGemm, plane + 2, {7, 1, 1, true}, false, true, 1, 1, 1, 1, 0);
    m.add(Op::kAdd, plane + 3, {7, 1, 1, true}, false, true, 1, 1, 1, 1, 0);
  }
  m.program.outputs = {static_cast<int>(m.n_steps()), static_cast<int>(plane)};
  c.code = encode_program(m.program);
  return std::move(c);
}

// An example as bytes: its input's three sides, the integers, then each tensor's type and content.
template <class T>
void put(std::vector<uint8_t>& bytes, T value) {
  const auto* from = reinterpret_cast<const uint8_t*>(&value);
  bytes.insert(bytes.end(), from, from + sizeof value);
}

[[maybe_unused]] std::vector<uint8_t> to_bytes(const Example& c) {
  std::vector<uint8_t> bytes;
  for (int64_t side : {c.input.channels, c.input.height, c.input.width})
    put(bytes, static_cast<uint16_t>(side));
  put(bytes, static_cast<uint16_t>(c.code.size()));
  for (int64_t i : c.code) put(bytes, i);
  for (const Tensor& t : c.constants) {
    put(bytes, static_cast<uint8_t>(t.type));
    put(bytes, static_cast<uint16_t>(t.count));
    const auto* data = static_cast<const uint8_t*>(t.data);
    bytes.insert(bytes.end(), data, data + t.count * element_size(t.type));
  }
  return bytes;
}

// The same from any bytes; what is missing at the end is left out.
[[maybe_unused]] Example from_bytes(const uint8_t* data, size_t size) {
  const uint8_t* const end = data + size;
  const auto take = [&](auto& value) {
    if (static_cast<size_t>(end - data) < sizeof value) return false;
    std::memcpy(&value, data, sizeof value);
    data += sizeof value;
    return true;
  };
  Example c;
  uint16_t sides[3] = {1, 1, 1}, n_code = 0, count = 0;
  uint8_t type = 0;
  for (uint16_t& side : sides) take(side);
  c.input = {false, false, sides[0], sides[1], sides[2]};
  take(n_code);
  for (int64_t i; n_code-- && take(i);) c.code.push_back(i);
  c.bytes.reserve(256);
  while (c.bytes.size() < 256 && take(type) && take(count)) {
    const auto t = static_cast<Type>(type % 5);
    const size_t n = std::min(count * element_size(t), static_cast<size_t>(end - data));
    // Of its exact size, so that reading one element too many is seen.
    c.bytes.emplace_back(data, data + n);
    c.constants.push_back({c.bytes.back().data(), n / element_size(t), t});
    data += n;
  }
  return c;
}

}  // namespace
