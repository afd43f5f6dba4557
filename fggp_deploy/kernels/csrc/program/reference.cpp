#include "program/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "isa/isa.h"

namespace fggp {
namespace {

using Array = std::vector<float>;

Array conv(const Step& s, const ValueShape& in, const Array& x, const ValueShape& out,
           const Array* residual) {
  const ConvShape& c = s.shape;
  const SparseRows& w = *s.rows;
  Array y(out.size());
  for (int64_t o = 0; o < c.cout; o++)
    for (int64_t i = 0; i < out.height; i++)
      for (int64_t j = 0; j < out.width; j++) {
        double total = (*s.bias)[static_cast<size_t>(o)];
        const auto row = static_cast<size_t>(o);
        for (uint32_t e = w.begin[row]; e < w.begin[row + 1]; e++) {
          const int64_t channel = w.column[e] / c.taps(), tap = w.column[e] % c.taps();
          const int64_t h = i * c.stride_h + tap / c.kw * c.dilation_h - c.top;
          const int64_t v = j * c.stride_w + tap % c.kw * c.dilation_w - c.left;
          if (h >= 0 && h < in.height && v >= 0 && v < in.width)
            total += double{w.value[e]} *
                     x[static_cast<size_t>((channel * in.height + h) * in.width + v)];
        }
        const auto at = static_cast<size_t>((o * out.height + i) * out.width + j);
        if (residual) total += (*residual)[at];
        y[at] = activated(s.activation, static_cast<float>(total));
      }
  return y;
}

Array add(const Step& s, const Array& x, const Array* residual) {
  Array y = x;
  for (size_t i = 0; i < y.size(); i++) {
    if (residual) y[i] += (*residual)[i];
    y[i] = activated(s.activation, y[i]);
  }
  return y;
}

Array pool(const Step& s, const ValueShape& in, const Array& x, const ValueShape& out) {
  const ConvShape& c = s.shape;
  Array y(out.size());
  for (int64_t o = 0; o < out.channels; o++)
    for (int64_t i = 0; i < out.height; i++)
      for (int64_t j = 0; j < out.width; j++) {
        double total = 0, count = 0;
        float largest = -std::numeric_limits<float>::infinity();
        for (int64_t a = 0; a < c.kh; a++)
          for (int64_t b = 0; b < c.kw; b++) {
            const int64_t h = i * c.stride_h + a * c.dilation_h - c.top;
            const int64_t v = j * c.stride_w + b * c.dilation_w - c.left;
            const bool inside = h >= 0 && h < in.height && v >= 0 && v < in.width;
            if (inside || s.count_padding) count++;
            if (!inside) continue;
            const float f = x[static_cast<size_t>((o * in.height + h) * in.width + v)];
            total += f;
            largest = larger(largest, f);
          }
        y[static_cast<size_t>((o * out.height + i) * out.width + j)] =
            s.op == Op::kMaxPool ? largest : static_cast<float>(total / count);
      }
  return y;
}

Array global_average(const ValueShape& in, const Array& x) {
  const auto plane = static_cast<size_t>(in.height * in.width);
  Array y;
  for (size_t c = 0; c < static_cast<size_t>(in.channels); c++) {
    double total = 0;
    for (size_t i = 0; i < plane; i++) total += x[c * plane + i];
    y.push_back(static_cast<float>(total / static_cast<double>(plane)));
  }
  return y;
}

}  // namespace

void run_reference(const Program& sparse, const std::vector<ValueShape>& inputs,
                   const float* const* data, float* const* outputs) {
  const Program program = with_zeros(sparse);
  const std::vector<ValueShape> shapes = infer_shapes(program, inputs);
  std::vector<Array> values;
  for (size_t i = 0; i < inputs.size(); i++)
    values.emplace_back(data[i], data[i] + inputs[i].size());
  for (const Step& s : program.steps) {
    const auto input = static_cast<size_t>(s.input);
    const ValueShape& in = shapes[input];
    const ValueShape& out = shapes[values.size()];
    const Array* residual = s.residual >= 0 ? &values[static_cast<size_t>(s.residual)] : nullptr;
    Array y;
    switch (s.op) {
      case Op::kConv:
        y = conv(s, in, values[input], out, residual);
        break;
      case Op::kGemm: {  // a convolution of a one by one plane
        y = conv(s, {false, false, in.channels, 1, 1}, values[input],
                 {false, false, out.channels, 1, 1}, residual);
        break;
      }
      case Op::kMaxPool:
      case Op::kAveragePool:
        y = pool(s, in, values[input], out);
        break;
      case Op::kGlobalAverage:
        y = global_average(in, values[input]);
        break;
      case Op::kFlatten:
        y = values[input];
        break;
      case Op::kAdd:
      case Op::kRound:
        y = add(s, values[input], residual);
        break;
    }
    const float zero_point = s.op == Op::kRound ? static_cast<float>(s.constant) : 0.0f;
    if (s.scale != 0.0f)
      for (float& v : y)
        v = s.scale * std::fmin(std::fmax(std::nearbyint(v / s.scale), -zero_point),
                                255.0f - zero_point);
    values.push_back(std::move(y));
  }
  for (size_t k = 0; k < program.outputs.size(); k++) {
    const Array& v = values[static_cast<size_t>(program.outputs[k])];
    std::copy(v.begin(), v.end(), outputs[k]);
  }
}

}  // namespace fggp
