// A chain of layers as a list of integers and constant tensors: what a Region node carries, and
// what a single SparseConv becomes. Nothing in it is trusted; a Program that exists is consistent.
//
//   code = [version, inputs, steps, outputs, value of each output, then 25 integers a step]
//
// Values are numbered: first the inputs, then one for each step. A step may only read values with
// a smaller number than its own. The integers of a step are the fields of `Step`, in order.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "plan/conv_plan.h"
#include "program/weights.h"

namespace fggp {

constexpr int64_t kProgramVersion = 1;
constexpr int kStepInts = 25;

enum class Op : int64_t {
  kConv = 1,           // also with residual and activation
  kMaxPool = 2,
  kAveragePool = 3,
  kGlobalAverage = 4,  // [C, H, W] -> [C]
  kFlatten = 5,        // [C, H, W] -> [C * H * W]
  kGemm = 6,           // [K] -> [N], also with activation
  kAdd = 7,            // the input, plus the residual if there is one, then the activation
  kRound = 8,          // the input, rounded to bytes
};

enum class Format : int64_t { kGaps = 0, kDense = 1, kRice = 2 };

struct Step {
  Op op;
  int input;
  int residual;    // value added before the activation, or -1
  int constant;    // Conv, Gemm: index of the first constant: weights, then the bias
                   // Round: the byte that stands for 0
  Format format;   // kGaps: values, gaps; kDense: one tensor; kRice: values, scales,
                   // high, low
  Activation act;  // 3 integers: on, and the bits of lo and hi as float
  ConvShape shape;  // 13 integers: cout cin group kh kw strides dilations pads (top left bottom right)
  bool count_padding;  // AveragePool
  Variant variant;     // 2 integers
  // Conv, Add: the output is rounded to whole numbers of this unit (the bits of a float), from 0 to
  // 255; 0: not at all. A MaxPool of such a value gives one too. Round: the same, from -constant to
  // 255 - constant.
  float unit;
  // From the constants; null unless Conv or Gemm.
  std::shared_ptr<const SparseRows> rows;
  std::shared_ptr<const std::vector<float>> bias;
};

struct Program {
  int n_inputs = 0;
  std::vector<Step> steps;
  std::vector<int> outputs;
};

// One image's worth of a value. Flat values are row-major and have one dimension, `channels`.
struct ValueShape {
  bool flat = false;
  bool keeps_rank = false;  // flat, but [C, 1, 1] to the world: what GlobalAveragePool gives
  bool vector() const { return flat && !keeps_rank; }
  int64_t channels = 0, height = 1, width = 1;
  size_t size() const {
    return static_cast<size_t>(channels) * static_cast<size_t>(height) *
           static_cast<size_t>(width);
  }
};

// Throws an Error that names the step and the rule that it breaks.
Program parse_program(const std::vector<int64_t>& code, const std::vector<Tensor>& constants);

// The same program with the zeros of its weights among their entries, as a dense one multiplies them.
Program with_zeros(const Program& program);

// The shape of every value of one image; throws an Error where a step does not fit what it reads.
std::vector<ValueShape> infer_shapes(const Program& program,
                                     const std::vector<ValueShape>& inputs);

}  // namespace fggp
