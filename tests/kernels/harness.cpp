// Runs the kernel library under sanitizers: random programs on every instruction set are compared
// with the reference, then damaged programs and tensors must be refused, or run within their memory.
// It needs no Python, so it runs on every platform that the library is built for.
//   cmake -S . -B build-asan -DFGGP_SANITIZE=ON && cmake --build build-asan && build-asan/fggp_harness
// Under the thread sanitizer, several sessions run the same programs at once:
//   cmake -S . -B build-tsan -DFGGP_SANITIZE=thread && cmake --build build-tsan
//   build-tsan/fggp_harness 0 0 1 1000
// `fggp_harness --corpus FOLDER N` writes N examples for fuzz.cpp to start from.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "random_programs.h"
#include "program/reference.h"
#include "plan/runner.h"

namespace {

bool same(float got, float want) {
  if (std::isnan(want)) return std::isnan(got);
  if (std::isinf(want)) return got == want;
  return std::fabs(got - want) <= 1e-4f * (1 + std::fabs(want));
}

void compare(const Example& c) {
  const Program program = parse_program(c.code, c.constants);
  std::vector<float> x(c.input.size());
  for (float& v : x) v = static_cast<float>(pick(-127, 127)) / 128;
  const bool ordinary = pick(0, 2) != 0;  // else with NaN and infinities
  if (!ordinary)
    for (const float special : {std::nanf(""), HUGE_VALF, -HUGE_VALF})
      x[static_cast<size_t>(pick(0, static_cast<int64_t>(x.size()) - 1))] = special;
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
    const auto tasks = static_cast<int>(pick(1, 4));
    if (ordinary) {
      const Execution e(program, *all[i], {c.input}, tasks);
      // Whatever is read before it is written must not reach an output.
      Workspace workspace(e.workspace_floats());
      std::fill_n(workspace.data(), e.workspace_floats(), std::nanf(""));
      e.run(&in, to_got.data(), workspace.data(), Threads());
    } else {
      Runner(program, *all[i], tasks).run({c.input}, 1, &in, to_got.data(), Threads());
    }
    for (size_t k = 0; k < want.size(); k++)
      for (size_t j = 0; j < want[k].size(); j++)
        if (!same(got[k][j], want[k][j])) {
          std::printf("%s: element %zu of output %zu is %g, not %g\n", all[i]->name, j, k,
                      got[k][j], want[k][j]);
          std::exit(1);
        }
  }
}

// Linear layers on many rows, by the way that the runner chooses, against the reference on each row.
void compare_rows() {
  Maker m;
  m.example.floats.reserve(64);
  m.example.bytes.reserve(64);
  const ValueShape input{true, false, pick(1, 90), 1, 1};
  m.values.push_back({input.channels, 1, 1, true});
  const int64_t hidden = pick(1, 90), made = pick(1, 90);
  m.add(Op::kGemm, 0, {hidden, 1, 1, true}, false, true, 1, 1, 1, 1, 0);
  m.add(Op::kGemm, 1, {made, 1, 1, true}, false, true, 1, 1, 1, 1, 0);
  m.program.outputs = {2};
  const Program program = parse_program(encode_program(m.program), m.example.constants);
  const auto rows = static_cast<size_t>(pick(2, 60)), width = static_cast<size_t>(made);
  std::vector<float> x(rows * input.size()), got(rows * width), want(width);
  for (float& v : x) v = static_cast<float>(pick(-127, 127)) / 128;
  int n = 0;
  const FggpIsa* const* all = fggp_isas(&n);
  for (int i = 0; i < n; i++) {
    if (!all[i]->supported()) continue;
    const float* in = x.data();
    float* out = got.data();
    Runner(program, *all[i], 1).run({input}, static_cast<int64_t>(rows), &in, &out, Threads());
    for (size_t r = 0; r < rows; r++) {
      const float* one = x.data() + r * input.size();
      float* there = want.data();
      run_reference(program, {input}, &one, &there);
      for (size_t k = 0; k < width; k++)
        if (!same(got[r * width + k], want[k])) {
          std::printf("%s: element %zu of row %zu is %g, not %g\n", all[i]->name, k, r,
                      got[r * width + k], want[k]);
          std::exit(1);
        }
    }
  }
}

// Returns whether the damage was refused. A program that is not refused must run within its memory.
bool damage(Example c) {
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
    runner.run({c.input}, 1, &in, out.data(), Threads());
    return false;
  } catch (const Error&) {
    return true;
  }
}

// Threads as a runtime lends them: two helpers and the caller take the remaining tasks.
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

// Several sessions share one program's kernel, each with its own sizes, batches and helpers.
void concurrently(const Example& c) {
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
      runner.run({input}, static_cast<int64_t>(n), &in, to.data(), threads);
      for (size_t image = 0; image < n; image++) {
        const float* one = x.data() + image * input.size();
        std::vector<float*> there;
        for (auto& w : want) there.push_back(w.data() + image * w.size() / n);
        run_reference(program, {input}, &one, there.data());
      }
      for (size_t k = 0; k < want.size(); k++)
        for (size_t j = 0; j < want[k].size(); j++)
          wrong += !same(got[k][j], want[k][j]);
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

int write_corpus(const char* folder, int n) {
  for (int i = 0; i < n; i++) {
    const std::string path = std::string(folder) + "/program" + std::to_string(i);
    std::FILE* file = std::fopen(path.c_str(), "wb");
    if (!file) return 1;
    const std::vector<uint8_t> bytes = to_bytes(random_example());
    std::fwrite(bytes.data(), 1, bytes.size(), file);
    std::fclose(file);
  }
  return 0;
}

}  // namespace

// fggp_harness [PROGRAMS [DAMAGED [SEED [CONCURRENT]]]]
int main(int argc, char** argv) {
  if (argc == 4 && !std::strcmp(argv[1], "--corpus")) return write_corpus(argv[2], std::atoi(argv[3]));
  const int programs = argc > 1 ? std::atoi(argv[1]) : 1000;
  const int damaged = argc > 2 ? std::atoi(argv[2]) : 5000;
  rng.seed(argc > 3 ? static_cast<unsigned>(std::atoi(argv[3])) : 1);
  const int concurrent = argc > 4 ? std::atoi(argv[4]) : 50;
  int refused = 0;
  for (int i = 0; i < programs; i++) compare(random_example());
  for (int i = 0; i < programs / 4; i++) compare_rows();
  for (int i = 0; i < damaged; i++) {
    Example c = random_example();
    refused += damage(std::move(c));
  }
  for (int i = 0; i < concurrent; i++) concurrently(random_example());
  int n = 0;
  const FggpIsa* const* all = fggp_isas(&n);
  for (int i = 0; i < n; i++)
    if (all[i]->supported()) std::printf("%s ", all[i]->name);
  std::printf("agree on %d programs, and on %d by sessions at once; of %d damaged ones, %d "
              "were refused and the rest ran\n", programs, concurrent, damaged, refused);
}
