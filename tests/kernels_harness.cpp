// Runs the kernel library under sanitizers: random chains on every instruction set against the
// reference, then damaged programs and tensors, which must be refused and never read wildly.
// Without Python, so that it runs wherever the library is built for.
//   cmake -S . -B build-asan -DFGGP_SANITIZE=ON && cmake --build build-asan && build-asan/fggp_harness
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "reference.h"
#include "runner.h"

using namespace fggp;

namespace {

std::mt19937 rng(1);

int64_t pick(int64_t low, int64_t high) {
  return low + static_cast<int64_t>(rng() % static_cast<uint32_t>(high - low + 1));
}

struct Chain {
  std::vector<int64_t> code;
  std::vector<std::vector<float>> floats;
  std::vector<std::vector<uint8_t>> gaps;
  std::vector<Tensor> constants;
  ValueShape input;
};

// Tensors live in exact-size allocations, so that reading one element too many is seen.
void add_weight(Chain& c, int64_t size, int64_t cout) {
  std::vector<float> values;
  std::vector<uint8_t> gaps;
  for (int64_t at = pick(0, 9), last = -1; at < size; last = at, at += pick(1, 12)) {
    gaps.push_back(static_cast<uint8_t>(at - last));
    values.push_back(static_cast<float>(pick(-99, 99)) / 100);
  }
  c.floats.push_back(values);
  c.constants.push_back({c.floats.back().data(), values.size(), Type::kFloat});
  c.gaps.push_back(gaps);
  c.constants.push_back({c.gaps.back().data(), gaps.size(), Type::kUint8});
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

// A program under construction: any earlier value may be read again.
struct Maker {
  Chain chain;
  std::vector<Shape> values;
  int64_t steps = 0;

  // The integers of one step; `shape` is what it makes, `like` whether a residual may be added.
  void add(Op op, int64_t input, Shape shape, bool like, bool clip, int64_t group, int64_t kernel,
           int64_t stride, int64_t dilation, int64_t pad) {
    int64_t residual = -1;
    for (size_t i = 0; like && i < values.size(); i++)
      if (values[i] == shape && pick(0, 1)) residual = static_cast<int64_t>(i);
    chain.code.insert(
        chain.code.end(),
        {static_cast<int64_t>(op), input, residual,
         static_cast<int64_t>(chain.constants.size()), 0, clip ? pick(0, 1) : 0, 0x3e800000,
         0x40c00000, shape.channels, values[static_cast<size_t>(input)].channels, group, kernel,
         kernel, stride, stride, dilation, dilation, pad, pad, pad, pad, pick(0, 1), pick(-1, 41),
         pick(1, 4), 0});
    if (op == Op::kConv || op == Op::kGemm)
      add_weight(chain, shape.channels * values[static_cast<size_t>(input)].channels / group *
                            kernel * kernel, shape.channels);
    values.push_back(shape);
    steps++;
  }

  // One step on a plane; false when the kernel drawn does not fit.
  bool random_step() {
    int64_t input = static_cast<int64_t>(values.size()) - 1;
    if (pick(0, 4) == 0) input = pick(0, input);
    const Shape in = values[static_cast<size_t>(input)];
    const int64_t what = pick(0, 9);
    if (what == 0) {
      add(Op::kAdd, input, in, true, true, 1, 1, 1, 1, 0);
      return true;
    }
    const bool pool = what < 3;
    const int64_t kernel = pick(1, 3), stride = pick(1, 3), dilation = pick(0, 3) ? 1 : 2;
    const int64_t pad = pool && dilation > 1 ? 0 : kernel / 2;
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

Chain random_chain() {
  Maker m;
  Chain& c = m.chain;
  c.floats.reserve(64);
  c.gaps.reserve(64);
  c.input = {false, false, pick(1, 20), pick(1, 30), pick(1, 30)};
  m.values.push_back({c.input.channels, c.input.height, c.input.width, false});
  const int64_t n = pick(1, 6);
  while (m.steps < n)
    if (!m.random_step()) return random_chain();
  const int64_t plane = m.steps;
  if (pick(0, 2) == 0) {  // a classifier
    const int64_t channels = m.values.back().channels;
    m.add(Op::kGlobalAverage, plane, {channels, 1, 1, true}, false, false, 1, 1, 1, 1, 0);
    m.add(Op::kFlatten, plane + 1, {channels, 1, 1, true}, false, false, 1, 1, 1, 1, 0);
    m.add(Op::kGemm, plane + 2, {7, 1, 1, true}, false, true, 1, 1, 1, 1, 0);
    m.add(Op::kAdd, plane + 3, {7, 1, 1, true}, false, true, 1, 1, 1, 1, 0);
  }
  std::vector<int64_t> head{kProgramVersion, 1, m.steps, 2, m.steps, plane};
  head.insert(head.end(), c.code.begin(), c.code.end());
  c.code = head;
  return std::move(c);
}

void compare(const Chain& c) {
  const Program program = parse_program(c.code, c.constants);
  std::vector<float> x(c.input.size());
  for (float& v : x) v = static_cast<float>(pick(-99, 99)) / 100;
  const auto shapes = infer_shapes(program, {c.input});
  std::vector<std::vector<float>> want, got;
  std::vector<float*> to_want, to_got;
  for (int o : program.outputs) want.emplace_back(shapes[static_cast<size_t>(o)].size());
  got = want;
  for (auto& w : want) to_want.push_back(w.data());
  for (auto& g : got) to_got.push_back(g.data());
  const float* in = x.data();
  run_reference(program, {c.input}, &in, to_want.data());
  int n = 0;
  const FggpIsa* const* all = fggp_isas(&n);
  for (int i = 0; i < n; i++) {
    if (!all[i]->supported()) continue;
    const Execution e(program, *all[i], {c.input}, static_cast<int>(pick(1, 4)));
    // Whatever is read before it is written must not reach an output.
    Workspace workspace(e.workspace_floats());
    std::fill_n(workspace.data(), e.workspace_floats(), std::nanf(""));
    e.run(&in, to_got.data(), workspace.data(), Threads());
    for (size_t k = 0; k < want.size(); k++)
      for (size_t j = 0; j < want[k].size(); j++)
        if (!(std::fabs(got[k][j] - want[k][j]) <= 1e-4f * (1 + std::fabs(want[k][j])))) {
          std::printf("%s: element %zu of output %zu is %g, not %g\n", all[i]->name, j, k,
                      got[k][j], want[k][j]);
          std::exit(1);
        }
  }
}

// True when the damage was noticed. What is not noticed must still run within its memory.
bool damage(Chain c) {
  switch (pick(0, 2)) {
    case 0: {
      constexpr int64_t kNasty[] = {0, -1, 1, 7, 255, 65535, 1 << 20, INT32_MAX, INT64_MAX, INT64_MIN};
      c.code[static_cast<size_t>(pick(0, static_cast<int64_t>(c.code.size()) - 1))] = kNasty[pick(0, 9)];
      break;
    }
    case 1:
      c.code.resize(static_cast<size_t>(pick(0, static_cast<int64_t>(c.code.size()))));
      break;
    default:
      for (auto& g : c.gaps)
        if (!g.empty()) g[static_cast<size_t>(pick(0, static_cast<int64_t>(g.size()) - 1))] = static_cast<uint8_t>(pick(0, 255));
  }
  try {
    const Program program = parse_program(c.code, c.constants);
    const auto shapes = infer_shapes(program, {c.input});
    for (const ValueShape& v : shapes)
      if (v.size() > size_t{1} << 22) return true;
    std::vector<float> x(c.input.size(), 1.0f);
    std::vector<std::vector<float>> outputs;
    std::vector<float*> out;
    for (int o : program.outputs) outputs.emplace_back(shapes[static_cast<size_t>(o)].size());
    for (auto& o : outputs) out.push_back(o.data());
    const float* in = x.data();
    Runner runner(program, fggp_best_isa(), 1);
    const auto execution = runner.execution({c.input});
    if (execution->workspace_floats() > size_t{1} << 26) return true;
    runner.run(*execution, {c.input}, 1, &in, out.data(), Threads());
    return false;
  } catch (const Error&) {
    return true;
  }
}

}  // namespace

// fggp_harness [CHAINS [DAMAGED]]
int main(int argc, char** argv) {
  const int chains = argc > 1 ? std::atoi(argv[1]) : 1000;
  const int damaged = argc > 2 ? std::atoi(argv[2]) : 5000;
  int refused = 0;
  for (int i = 0; i < chains; i++) compare(random_chain());
  for (int i = 0; i < damaged; i++) {
    Chain c = random_chain();
    // The tensors point into the chain, so a copy damages its own gaps.
    for (auto& g : c.gaps) g.shrink_to_fit();
    refused += damage(std::move(c));
  }
  int n = 0;
  const FggpIsa* const* all = fggp_isas(&n);
  for (int i = 0; i < n; i++)
    if (all[i]->supported()) std::printf("%s ", all[i]->name);
  std::printf("agree on %d chains; %d damaged ones: %d refused, the rest ran\n", chains, damaged,
              refused);
}
