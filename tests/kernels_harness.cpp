// Runs the kernel library under sanitizers: random chains on every instruction set against the
// reference, then damaged programs and tensors, which must be refused and never read wildly.
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

Chain random_chain() {
  Chain c;
  c.floats.reserve(64);
  c.gaps.reserve(64);
  int64_t channels = pick(1, 20), h = pick(1, 30), w = pick(1, 30);
  c.input = {false, false, channels, h, w};
  const int64_t n = pick(1, 4);
  c.code = {kProgramVersion, 1, n, 1, n};
  for (int64_t i = 0; i < n; i++) {
    const bool pool = pick(0, 3) == 0;
    const int64_t kernel = pick(1, 3), stride = pick(1, 2), pad = kernel / 2;
    const int64_t cout = pool ? channels : pick(1, 24);
    if (h + 2 * pad < kernel || w + 2 * pad < kernel) return random_chain();
    const bool same = !pool && stride == 1 && cout == channels && kernel % 2 == 1;
    const auto constant = static_cast<int64_t>(c.constants.size());
    c.code.insert(c.code.end(), {pool ? pick(2, 3) : 1, i, same && pick(0, 1) ? i : -1, constant,
                                 0, pool ? 0 : pick(0, 1), 0, 0x40c00000, cout, channels, 1,
                                 kernel, kernel, stride, stride, 1, 1, pad, pad, pad, pad,
                                 pick(0, 1), pick(-1, 41), pick(1, 4), 0});
    if (!pool) add_weight(c, cout * channels * kernel * kernel, cout);
    channels = cout;
    h = (h + 2 * pad - kernel) / stride + 1;
    w = (w + 2 * pad - kernel) / stride + 1;
  }
  return c;
}

void compare(const Chain& c) {
  const Program program = parse_program(c.code, c.constants);
  std::vector<float> x(c.input.size());
  for (float& v : x) v = static_cast<float>(pick(-99, 99)) / 100;
  const size_t size = infer_shapes(program, {c.input}).back().size();
  std::vector<float> want(size), got(size);
  const float* in = x.data();
  float* out = want.data();
  run_reference(program, {c.input}, &in, &out);
  int n = 0;
  const FggpIsa* const* all = fggp_isas(&n);
  for (int i = 0; i < n; i++) {
    if (!all[i]->supported()) continue;
    const Execution e(program, *all[i], {c.input}, static_cast<int>(pick(1, 4)));
    // Whatever is read before it is written must not reach an output.
    Workspace workspace(e.workspace_floats());
    std::fill_n(workspace.data(), e.workspace_floats(), std::nanf(""));
    out = got.data();
    e.run(&in, &out, workspace.data(), Threads());
    for (size_t k = 0; k < size; k++)
      if (!(std::fabs(got[k] - want[k]) <= 1e-4f * (1 + std::fabs(want[k])))) {
        std::printf("%s: element %zu is %g, not %g\n", all[i]->name, k, got[k], want[k]);
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
    if (shapes.back().size() > size_t{1} << 22) return true;
    std::vector<float> x(c.input.size(), 1.0f);
    std::vector<std::vector<float>> outputs;
    std::vector<float*> out;
    for (int o : program.outputs) outputs.emplace_back(shapes[static_cast<size_t>(o)].size());
    for (auto& o : outputs) out.push_back(o.data());
    const float* in = x.data();
    Runner runner(program, fggp_best_isa(), 1);
    runner.run(*runner.execution({c.input}), {c.input}, 1, &in, out.data(), Threads());
    return false;
  } catch (const Error&) {
    return true;
  }
}

}  // namespace

int main() {
  int refused = 0;
  for (int i = 0; i < 600; i++) compare(random_chain());
  for (int i = 0; i < 3000; i++) {
    Chain c = random_chain();
    // The tensors point into the chain, so a copy damages its own gaps.
    for (auto& g : c.gaps) g.shrink_to_fit();
    refused += damage(std::move(c));
  }
  std::printf("600 chains agree; 3000 damaged ones: %d refused, the rest ran\n", refused);
}
