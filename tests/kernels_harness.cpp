// Runs the kernel library under sanitizers: random chains on every instruction set against the
// reference, then damaged programs and tensors, which must be refused and never read wildly.
// Without Python, so that it runs wherever the library is built for.
//   cmake -S . -B build-asan -DFGGP_SANITIZE=ON && cmake --build build-asan && build-asan/fggp_harness
// Under the thread sanitizer, several sessions at once on the same chains:
//   cmake -S . -B build-tsan -DFGGP_SANITIZE=thread && cmake --build build-tsan
//   build-tsan/fggp_harness 0 0 1 1000
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>

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
  std::vector<std::vector<uint8_t>> bytes;  // gaps, or what a Rice code consists of
  std::vector<Tensor> constants;
  ValueShape input;
};

void add_bytes(Chain& c, std::vector<uint8_t> bytes, Type type) {
  c.bytes.push_back(std::move(bytes));
  c.bytes.back().shrink_to_fit();
  c.constants.push_back({c.bytes.back().data(), c.bytes.back().size(), type});
}

// The constants of a weight with int8 values, `sparse` apart on average twice.
void add_rice(Chain& c, int64_t size, int64_t cout, int64_t sparse, float scale) {
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
void add_gaps(Chain& c, int64_t size) {
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

void add_bias(Chain& c, int64_t cout) {
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
  // Every factor a power of two and every convolution's input rounded, so that all sums are exact
  // and rounding them cannot go another way: for chains of bytes.
  bool exact = false;
  std::vector<bool> rounded{true};  // or the chain's input

  // The integers of one step; `shape` is what it makes, `like` whether a residual may be added.
  void add(Op op, int64_t input, Shape shape, bool like, bool clip, int64_t group, int64_t kernel,
           int64_t stride, int64_t dilation, int64_t pad) {
    int64_t residual = -1;
    const Format format = !exact && pick(0, 2) ? Format::kGaps : Format::kRice;
    const bool unit = exact && !shape.flat && (op == Op::kConv || op == Op::kAdd) && pick(0, 4);
    rounded.push_back(unit || (op == Op::kMaxPool && rounded[static_cast<size_t>(input)]));
    for (size_t i = 0; like && i < values.size(); i++)
      if (values[i] == shape && pick(0, 1)) residual = static_cast<int64_t>(i);
    chain.code.insert(
        chain.code.end(),
        {static_cast<int64_t>(op), input, residual,
         static_cast<int64_t>(chain.constants.size()), static_cast<int64_t>(format), clip ? pick(0, 1) : 0, 0x3e800000,
         0x40c00000, shape.channels, values[static_cast<size_t>(input)].channels, group, kernel,
         kernel, stride, stride, dilation, dilation, pad, pad, pad, pad, pick(0, 1), pick(-1, 41),
         pick(1, 4), unit ? (127 - pick(1, 5)) << 23 : 0});
    if (op == Op::kConv || op == Op::kGemm) {
      const int64_t size =
          shape.channels * values[static_cast<size_t>(input)].channels / group * kernel * kernel;
      if (format == Format::kRice) add_rice(chain, size, shape.channels, exact ? 8 : 60, exact ? 0.0078125f : 0.01f);
      else add_gaps(chain, size);
      add_bias(chain, shape.channels);
    }
    values.push_back(shape);
    steps++;
  }

  // One step on a plane; false when the kernel drawn does not fit.
  bool random_step() {
    int64_t input = static_cast<int64_t>(values.size()) - 1;
    if (pick(0, 4) == 0) input = pick(0, input);
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
  c.bytes.reserve(64);
  m.exact = pick(0, 1);
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
  for (float& v : x) v = static_cast<float>(pick(-127, 127)) / 128;
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
      for (auto& g : c.bytes)
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

// Threads as a runtime lends them: some helpers and the caller take what is left to do.
void lend(void*, size_t n, void (*fn)(void*, size_t), void* arg) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i; (i = next++) < n;) fn(arg, i);
  };
  std::vector<std::thread> helpers;
  for (int i = 0; i < 2; i++) helpers.emplace_back(work);
  work();
  for (std::thread& t : helpers) t.join();
}

// Several sessions share one chain's kernel, each with its own sizes, batches and helpers.
void concurrently(const Chain& c) {
  constexpr int kSessions = 4, kRuns = 3;
  int n_isas = 0;
  const FggpIsa* const* all = fggp_isas(&n_isas);
  const FggpIsa* isa = all[pick(0, n_isas - 1)];
  if (!isa->supported()) isa = &fggp_best_isa();
  Runner runner(parse_program(c.code, c.constants), *isa, static_cast<int>(pick(1, 6)));
  const Program& program = runner.program();
  std::atomic<int> wrong{0};
  const auto session = [&](int which) {
    for (int run = 0; run < kRuns; run++) {
      ValueShape input = c.input;
      input.height += which % 2 * run;  // half of them change their size
      std::vector<ValueShape> shapes;
      try {
        shapes = infer_shapes(program, {input});
      } catch (const Error&) {
        return;
      }
      const auto n = static_cast<size_t>(1 + (which + run) % 4);
      std::vector<float> x(n * input.size());
      for (size_t i = 0; i < x.size(); i++)
        x[i] = static_cast<float>((i * 37 + static_cast<size_t>(which)) % 19) / 32;
      std::vector<std::vector<float>> want, got;
      std::vector<float*> to;
      for (int o : program.outputs)
        got.emplace_back(n * shapes[static_cast<size_t>(o)].size());
      want = got;
      for (auto& g : got) to.push_back(g.data());
      const float* in = x.data();
      Threads threads;
      if (which % 3) threads.run = lend;
      runner.run(*runner.execution({input}), {input}, static_cast<int64_t>(n), &in, to.data(),
                 threads);
      for (size_t image = 0; image < n; image++) {
        const float* one = x.data() + image * input.size();
        std::vector<float*> there;
        for (auto& w : want) there.push_back(w.data() + image * w.size() / n);
        run_reference(program, {input}, &one, there.data());
      }
      for (size_t k = 0; k < want.size(); k++)
        for (size_t j = 0; j < want[k].size(); j++)
          wrong += !(std::fabs(got[k][j] - want[k][j]) <= 1e-4f * (1 + std::fabs(want[k][j])));
    }
  };
  std::vector<std::thread> sessions;
  for (int i = 0; i < kSessions; i++) sessions.emplace_back(session, i);
  for (std::thread& t : sessions) t.join();
  if (wrong) {
    std::printf("%d elements are wrong when sessions run at once\n", wrong.load());
    std::exit(1);
  }
}

}  // namespace

// fggp_harness [CHAINS [DAMAGED [SEED [CONCURRENT]]]]
int main(int argc, char** argv) {
  const int chains = argc > 1 ? std::atoi(argv[1]) : 1000;
  const int damaged = argc > 2 ? std::atoi(argv[2]) : 5000;
  rng.seed(argc > 3 ? static_cast<unsigned>(std::atoi(argv[3])) : 1);
  const int concurrent = argc > 4 ? std::atoi(argv[4]) : 50;
  int refused = 0;
  for (int i = 0; i < chains; i++) compare(random_chain());
  for (int i = 0; i < damaged; i++) {
    Chain c = random_chain();
    refused += damage(std::move(c));
  }
  for (int i = 0; i < concurrent; i++) concurrently(random_chain());
  int n = 0;
  const FggpIsa* const* all = fggp_isas(&n);
  for (int i = 0; i < n; i++)
    if (all[i]->supported()) std::printf("%s ", all[i]->name);
  std::printf("agree on %d chains and on %d by sessions at once; %d damaged ones: %d refused, "
              "the rest ran\n", chains, concurrent, damaged, refused);
}
