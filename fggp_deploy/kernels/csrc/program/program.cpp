#include "program/program.h"

#include <cstring>

namespace fggp {
namespace {

constexpr int64_t kMaxSteps = 1 << 16;

// Reads integers in order; running out of them is an Error.
class Reader {
 public:
  explicit Reader(const std::vector<int64_t>& code) : code_(code) {}
  int64_t next() {
    if (at_ == code_.size()) throw Error("the program ends too early");
    return code_[at_++];
  }
  int64_t next(int64_t low, int64_t high, const char* what) {
    const int64_t v = next();
    if (v < low || v > high)
      throw Error(std::string(what) + " is " + std::to_string(v) + ", not from " +
                  std::to_string(low) + " to " + std::to_string(high));
    return v;
  }
  int next_int(int64_t low, int64_t high, const char* what) {
    return static_cast<int>(next(low, high, what));
  }
  float next_float() {
    const auto bits = static_cast<uint32_t>(next(0, UINT32_MAX, "a float's bits"));
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
  }
  bool done() const { return at_ == code_.size(); }

 private:
  const std::vector<int64_t>& code_;
  size_t at_ = 0;
};

const Tensor& constant(const std::vector<Tensor>& all, int index) {
  if (index < 0 || static_cast<size_t>(index) >= all.size())
    throw Error("constant " + std::to_string(index) + " does not exist");
  return all[static_cast<size_t>(index)];
}

void load_weights(Step& s, const std::vector<Tensor>& constants) {
  int c = s.constant;
  SparseRows rows;
  if (s.format == Format::kGaps) {
    const Tensor& values = constant(constants, c++);
    rows = decode_gaps(values, constant(constants, c++), s.shape);
  } else if (s.format == Format::kRice) {
    const Tensor& values = constant(constants, c++);
    const Tensor& scales = constant(constants, c++);
    const Tensor& high = constant(constants, c++);
    rows = decode_rice(values, scales, high, constant(constants, c++), s.shape);
  } else {
    rows = from_dense(constant(constants, c++), s.shape);
  }
  s.rows = std::make_shared<const SparseRows>(std::move(rows));
  s.bias = std::make_shared<const std::vector<float>>(
      decode_floats(constant(constants, c), static_cast<size_t>(s.shape.cout), "a bias"));
}

// Every window of a pooling must have a tap inside the plane.
void check_window(const ConvShape& c) {
  if (c.top >= c.kh || c.bottom >= c.kh || c.left >= c.kw || c.right >= c.kw)
    throw Error("a pooling is padded by its whole kernel");
  if ((c.dilation_h > 1 && c.top + c.bottom) || (c.dilation_w > 1 && c.left + c.right))
    throw Error("a pooling is dilated and padded");
}

Step parse_step(Reader& r, int value, const std::vector<Tensor>& constants) {
  Step s;
  s.op = static_cast<Op>(r.next(1, 8, "an operator"));
  s.input = r.next_int(0, value - 1, "an input value");
  s.residual = r.next_int(-1, value - 1, "a residual value");
  s.constant = r.next_int(0, INT32_MAX / 2, "a constant");
  s.format = static_cast<Format>(r.next(0, 2, "a weight format"));
  s.act.on = r.next(0, 1, "an activation") == 1;
  s.act.lo = r.next_float();
  s.act.hi = r.next_float();
  ConvShape& c = s.shape;
  for (int64_t* field : {&c.cout, &c.cin, &c.group, &c.kh, &c.kw, &c.stride_h, &c.stride_w,
                         &c.dilation_h, &c.dilation_w, &c.top, &c.left, &c.bottom, &c.right})
    *field = r.next();
  s.count_padding = r.next(0, 1, "count_include_pad") == 1;
  s.variant.conv = r.next_int(-1, 1 << 16, "a variant");
  s.variant.input_blocks = r.next_int(1, 1 << 16, "a number of input blocks");
  s.unit = r.next_float();
  if (s.unit != 0.0f && !(s.unit >= 1e-30f && s.unit <= 1e30f))
    throw Error("a unit is neither 0 nor from 1e-30 to 1e30");
  c.check();
  if (s.op == Op::kConv || s.op == Op::kGemm) load_weights(s, constants);
  if (s.op == Op::kGemm && (c.taps() != 1 || c.group != 1)) throw Error("a Gemm has no kernel");
  if (s.op != Op::kConv && s.op != Op::kAdd && s.residual >= 0)
    throw Error("only a Conv and an Add have a residual");
  if (s.op != Op::kConv && s.op != Op::kAdd && s.op != Op::kGemm && s.act.on)
    throw Error("only a Conv, an Add and a Gemm have an activation");
  if (s.op != Op::kConv && s.op != Op::kAdd && s.op != Op::kRound && s.unit != 0.0f)
    throw Error("only a Conv, an Add and a Round have a unit");
  if (s.op == Op::kRound && (s.unit == 0.0f || s.constant > 255))
    throw Error("a Round needs a unit, and a byte that stands for 0");
  if (s.op == Op::kMaxPool || s.op == Op::kAveragePool) check_window(c);
  return s;
}

}  // namespace

Program parse_program(const std::vector<int64_t>& code, const std::vector<Tensor>& constants) {
  Reader r(code);
  Program p;
  r.next(kProgramVersion, kProgramVersion, "the program's version");
  p.n_inputs = r.next_int(1, 64, "the number of inputs");
  const int n_steps = r.next_int(1, kMaxSteps, "the number of steps");
  const int n_outputs = r.next_int(1, 64, "the number of outputs");
  for (int i = 0; i < n_outputs; i++)
    p.outputs.push_back(r.next_int(p.n_inputs, p.n_inputs + n_steps - 1, "an output value"));
  for (int i = 0; i < n_steps; i++) {
    try {
      p.steps.push_back(parse_step(r, p.n_inputs + i, constants));
    } catch (const Error& e) {
      throw Error("step " + std::to_string(i) + ": " + e.what());
    }
  }
  if (!r.done()) throw Error("the program has more integers than steps");
  return p;
}

Program with_zeros(const Program& program) {
  Program p = program;
  for (Step& s : p.steps) {
    if (!s.rows) continue;
    s.rows = std::make_shared<const SparseRows>(with_zeros(*s.rows, s.shape));
    s.variant = Variant();
  }
  return p;
}

}  // namespace fggp
