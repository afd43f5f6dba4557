#include "program/program.h"

#include <cstring>
#include <string>

#include "program/error.h"

namespace fggp {
namespace {

constexpr int64_t kVersion = 1;
constexpr int64_t kMaxSteps = 1 << 16;
constexpr int64_t kMaxValues = 64;  // inputs, and outputs, of a program

// Reads fields in order; throws an Error if there are too few integers or one is out of its range.
class Reader {
 public:
  explicit Reader(const std::vector<int64_t>& code) : code_(code) {}

  template <class T>
  void integer(const char* what, T& field, int64_t low, int64_t high) {
    field = static_cast<T>(next(what, low, high));
  }
  void value(const char* what, int& field, int64_t low) { integer(what, field, low, n_values - 1); }
  void size(int64_t& field) { field = next(); }
  void number(const char* what, float& field) {
    const auto bits = static_cast<uint32_t>(next(what, 0, UINT32_MAX));
    std::memcpy(&field, &bits, sizeof field);
  }
  int64_t next(const char* what, int64_t low, int64_t high) {
    const int64_t v = next();
    if (v < low || v > high)
      throw Error(std::string(what) + " is " + std::to_string(v) + ", not from " +
                  std::to_string(low) + " to " + std::to_string(high));
    return v;
  }
  bool done() const { return at_ == code_.size(); }

  int n_values = 0;  // that a step may read

 private:
  int64_t next() {
    if (at_ == code_.size()) throw Error("the program ends too early");
    return code_[at_++];
  }

  const std::vector<int64_t>& code_;
  size_t at_ = 0;
};

// Appends fields in order.
struct Writer {
  std::vector<int64_t> code;

  template <class T>
  void integer(const char*, const T& field, int64_t, int64_t) {
    code.push_back(static_cast<int64_t>(field));
  }
  void value(const char*, const int& field, int64_t) { code.push_back(field); }
  void size(const int64_t& field) { code.push_back(field); }
  void number(const char*, const float& field) {
    uint32_t bits;
    std::memcpy(&bits, &field, sizeof bits);
    code.push_back(bits);
  }
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

// Which fields an operator may use.
void check_fields(const Step& s) {
  const bool conv = s.op == Op::kConv, add = s.op == Op::kAdd;
  const bool gemm = s.op == Op::kGemm, round = s.op == Op::kRound;
  if (s.scale != 0.0f && !(s.scale >= 1e-30f && s.scale <= 1e30f))
    throw Error("a scale is neither 0 nor from 1e-30 to 1e30");
  if (gemm && (s.shape.taps() != 1 || s.shape.group != 1)) throw Error("a Gemm has no kernel");
  if (!conv && !add && !gemm && s.residual >= 0)
    throw Error("only a Conv, an Add and a Gemm have a residual");
  if (!conv && !add && !gemm && s.activation.kind != kFggpNone)
    throw Error("only a Conv, an Add and a Gemm have an activation");
  if (!conv && !add && !round && s.scale != 0.0f)
    throw Error("only a Conv, an Add and a Round have a scale");
  if (round && (s.scale == 0.0f || s.constant > 255))
    throw Error("a Round needs a scale, and a zero point of at most 255");
  if (s.op == Op::kMaxPool || s.op == Op::kAveragePool) check_window(s.shape);
}

Step parse_step(Reader& reader, const std::vector<Tensor>& constants) {
  Step s;
  visit_fields(reader, s);
  s.shape.check();
  check_fields(s);
  if (s.op == Op::kConv || s.op == Op::kGemm) load_weights(s, constants);
  return s;
}

}  // namespace

Program parse_program(const std::vector<int64_t>& code, const std::vector<Tensor>& constants) {
  Reader r(code);
  Program p;
  r.next("the program's version", kVersion, kVersion);
  r.integer("the number of inputs", p.n_inputs, 1, kMaxValues);
  const int64_t n_steps = r.next("the number of steps", 1, kMaxSteps);
  p.outputs.resize(static_cast<size_t>(r.next("the number of outputs", 1, kMaxValues)));
  for (int& output : p.outputs)
    r.integer("an output value", output, p.n_inputs, p.n_inputs + n_steps - 1);
  for (int i = 0; i < n_steps; i++) {
    try {
      r.n_values = p.n_inputs + i;
      p.steps.push_back(parse_step(r, constants));
    } catch (const Error& e) {
      throw Error("step " + std::to_string(i) + ": " + e.what());
    }
  }
  if (!r.done()) throw Error("the program has more integers than steps");
  return p;
}

bool is_on_rows(const Program& program) {
  bool linear = false;
  for (const Step& s : program.steps) {
    if (s.op != Op::kGemm && s.op != Op::kAdd) return false;
    linear = linear || s.op == Op::kGemm;
  }
  return linear;
}

std::vector<int64_t> encode_program(const Program& program) {
  Writer w;
  w.code = {kVersion, program.n_inputs, static_cast<int64_t>(program.steps.size()),
            static_cast<int64_t>(program.outputs.size())};
  w.code.insert(w.code.end(), program.outputs.begin(), program.outputs.end());
  for (const Step& s : program.steps) visit_fields(w, s);
  return std::move(w.code);
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
