// One step of a kernel program, and the one place that lists its integers.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "program/scalar_activation.h"
#include "program/conv_shape.h"
#include "program/weights.h"

namespace fggp {

enum class Op : int64_t {
  kConv = 1,           // also with a residual and an activation
  kMaxPool = 2,
  kAveragePool = 3,
  kGlobalAverage = 4,  // [C, H, W] -> [C]
  kFlatten = 5,        // [C, H, W] -> [C * H * W]
  kGemm = 6,           // [K] -> [N], also with an activation
  kAdd = 7,            // the input, plus the residual if there is one, then the activation
  kRound = 8,          // the input, quantized to uint8
  kLast = kRound,
};

// How a weight is stored, and in which constants; the bias is the constant that follows.
enum class Format : int64_t {
  kGaps = 0,   // values, gaps
  kDense = 1,  // the weight
  kRice = 2,   // values, scales, high, low
  kLast = kRice,
};

// Which compiled block shape computes a convolution, and in how many blocks its input channels are
// taken.
struct Variant {
  int conv = -1;  // index into FggpIsa::conv; -1: the cost model chooses
  int input_blocks = 1;
};

struct Step {
  Op op = Op::kConv;
  int input = 0;      // the value that it reads
  int residual = -1;  // Conv, Add, Gemm: the value that is added before the activation; -1: none
  int constant = 0;   // Conv, Gemm: index of the first constant. Round: the zero point
  Format format = Format::kGaps;
  Activation activation{};
  ConvShape shape;
  bool count_padding = false;  // AveragePool
  Variant variant;
  // Conv, Add: the output is quantized to uint8 with this scale and zero point 0; 0: it is not.
  // The MaxPool of such a value is quantized too. Round: the scale of its output.
  float scale = 0;

  // Read from the constants; null unless the step is a Conv or a Gemm.
  std::shared_ptr<const SparseRows> rows;
  std::shared_ptr<const std::vector<float>> bias;
};

// Visits the fields that a step is stored as, in their order: 25 integers. `Step` in
// fggp_deploy/kernels/program.py has the same list. Reading and writing are two visitors (program.cpp).
template <class Visitor, class AnyStep>
void visit_fields(Visitor& v, AnyStep& s) {
  v.integer("an operator", s.op, 1, static_cast<int64_t>(Op::kLast));
  v.value("an input value", s.input, 0);
  v.value("a residual value", s.residual, -1);
  v.integer("a constant", s.constant, 0, INT32_MAX / 2);
  v.integer("a weight format", s.format, 0, static_cast<int64_t>(Format::kLast));
  v.integer("an activation", s.activation.kind, 0, kFggpLastActivation);
  v.number("an activation's first number", s.activation.a);
  v.number("an activation's second number", s.activation.b);
  v.size(s.shape.cout);
  v.size(s.shape.cin);
  v.size(s.shape.group);
  v.size(s.shape.kh);
  v.size(s.shape.kw);
  v.size(s.shape.stride_h);
  v.size(s.shape.stride_w);
  v.size(s.shape.dilation_h);
  v.size(s.shape.dilation_w);
  v.size(s.shape.top);
  v.size(s.shape.left);
  v.size(s.shape.bottom);
  v.size(s.shape.right);
  v.integer("count_include_pad", s.count_padding, 0, 1);
  v.integer("a variant", s.variant.conv, -1, 1 << 16);
  v.integer("a number of input blocks", s.variant.input_blocks, 1, 1 << 16);
  v.number("a scale", s.scale);
}

}  // namespace fggp
