// Runs the kernel library under sanitizers: random programs on every instruction set are compared
// with the reference, then damaged programs and tensors must be refused, or run within their memory.
// It needs no Python, so it runs on every platform that the library is built for.
//   cmake -S . -B build-asan -DFGGP_SANITIZE=ON && cmake --build build-asan && build-asan/fggp_harness
// Under the thread sanitizer, several sessions run the same programs at once:
//   cmake -S . -B build-tsan -DFGGP_SANITIZE=thread && cmake --build build-tsan
//   build-tsan/fggp_harness 0 0 1 1000
// Programs also run on threads that are delayed at random, arrive late or never, which must give the
// same bits as one thread:
//   build-tsan/fggp_harness 0 0 1 0 1000
// `fggp_harness --corpus FOLDER N` writes N examples for fuzz.cpp to start from.
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "random_programs.h"
#include "program/reference.h"
#include "plan/runner.h"
#include "plan/section.h"

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
    const Sharing sharing{static_cast<int>(pick(1, 3)), 1};
    if (ordinary) {
      Packings packings;
      const Execution e(program, *all[i], {c.input}, sharing, packings);
      // Whatever is read before it is written must not reach an output.
      Workspace workspace(e.workspace_floats());
      std::fill_n(workspace.data(), e.workspace_floats(), std::nanf(""));
      e.run({&in, to_got.data(), workspace.data()});
    } else {
      Runner(program, *all[i], sharing).run({c.input}, 1, &in, to_got.data(), Threads());
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
    Runner runner(program, fggp_best_isa(), Sharing{});
    const auto execution = runner.execution({c.input});
    if (execution->workspace_floats() > size_t{1} << 26) return true;
    runner.run({c.input}, 1, &in, out.data(), Threads());
    return false;
  } catch (const Error&) {
    return true;
  }
}

// The delays of this thread; each thread has its own numbers.
void delay(std::mt19937& random) {
  switch (random() % 8) {
    case 0:
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 300));
      break;
    case 1:
      std::this_thread::yield();
      break;
    case 2:
      for (volatile unsigned spin = random() % 4000; spin; spin = spin - 1) {
      }
      break;
    default:
      break;
  }
}

// Threads as a runtime lends them: helpers and the caller take the remaining tasks. Each helper may be
// late, and some never come; `self` is null, or the number of helpers.
void lend(void* self, size_t n, void (*fn)(void*, size_t), void* arg) {
  static std::atomic<unsigned> seed{0};
  const int n_helpers = self ? *static_cast<const int*>(self) : 2;
  std::atomic<size_t> next{0};
  const auto work = [&] {
    std::mt19937 random(seed++);
    for (size_t i; delay(random), (i = next++) < n;) fn(arg, i);
  };
  std::vector<std::thread> helpers;
  for (int i = 0; i < n_helpers; i++)
    if (seed++ % 5) helpers.emplace_back(work);
  work();
  for (std::thread& t : helpers) t.join();
}

// Linear layers on many rows, by the way that the runner chooses, against the reference on each row.
void compare_rows() {
  Maker m;
  m.example.floats.reserve(64);
  m.example.bytes.reserve(64);
  const ValueShape input{true, false, pick(1, 90), 1, 1};
  m.values.push_back({input.channels, 1, 1, true});
  const int64_t widths[] = {input.channels, pick(1, 90), pick(1, 90)};
  int64_t made = 0;
  for (auto n = pick(1, 5); n > 0; n--) {
    const int64_t from = pick(0, 3) ? m.n_steps() : pick(0, m.n_steps());
    const bool linear = m.n_steps() == 0 || pick(0, 2);
    made = linear ? widths[pick(0, 2)] : m.values[static_cast<size_t>(from)].channels;
    m.add(linear ? Op::kGemm : Op::kAdd, from, {made, 1, 1, true}, true, true, 1, 1, 1, 1, 0);
  }
  m.program.outputs = {static_cast<int>(m.n_steps())};
  const Program program = parse_program(encode_program(m.program), m.example.constants);
  const auto rows = static_cast<size_t>(pick(1, 60)), width = static_cast<size_t>(made);
  std::vector<float> x(rows * input.size()), got(rows * width), want(width);
  for (float& v : x) v = static_cast<float>(pick(-127, 127)) / 128;
  int n = 0;
  const FggpIsa* const* all = fggp_isas(&n);
  for (int i = 0; i < n; i++) {
    if (!all[i]->supported()) continue;
    const float* in = x.data();
    float* out = got.data();
    const Sharing sharing{static_cast<int>(pick(1, 3)), 1};
    Runner(program, *all[i], sharing).run({input}, static_cast<int64_t>(rows), &in, &out, {lend, nullptr});
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

// Every part runs once, after all parts of the stages before it, whoever is delayed where.
class RandomStages : public Stages {
 public:
  RandomStages() {
    for (auto n = pick(1, 12); n > 0; n--) parts_.push_back(static_cast<int>(pick(0, 2) ? pick(1, 9) : 1));
    if (pick(0, 9) == 0) parts_.push_back(kMaxParts);
    runs_ = std::vector<std::atomic<int>>(parts_.size());
  }
  size_t count() const override { return parts_.size(); }
  int parts(size_t stage) const override { return parts_[stage]; }
  void run(size_t stage, int) const override {
    static std::atomic<unsigned> seed{1};
    std::mt19937 random(seed++);
    if (stage > 0 && plain_ != done_before(stage)) wrong_++;
    delay(random);
    if (++runs_[stage] == parts_[stage]) plain_ += parts_[stage];  // only the last one writes
  }
  bool complete() const { return plain_ == done_before(parts_.size()) && !wrong_; }

 private:
  int done_before(size_t stage) const {
    int n = 0;
    for (size_t s = 0; s < stage; s++) n += parts_[s];
    return n;
  }
  std::vector<int> parts_;
  mutable std::vector<std::atomic<int>> runs_;
  mutable int plain_ = 0;  // not atomic: the thread sanitizer sees whether stages are ordered
  mutable std::atomic<int> wrong_{0};
};

// Runs of so many images. One thread takes `one` seconds, several take 0.6 times as long.
struct Timing {
  double one;
  size_t images;
};

// Of so many runs, the share on several threads, if every `nth` of these is interrupted.
double share_on_several(ThreadChoice& choice, const Timing& t, int runs, int nth) {
  int n = 0;
  for (int i = 0; i < runs; i++) {
    const bool several = choice.several();
    n += several;
    choice.record(several, several, t.one * (!several ? 1.0 : n % nth ? 0.6 : 6.0), t.images);
  }
  return static_cast<double>(n) / runs;
}

// Of so many runs, the share that offers work to several threads though nobody helps.
double share_without_help(ThreadChoice& choice, const Timing& t, int runs) {
  int n = 0;
  for (int i = 0; i < runs; i++) {
    const bool several = choice.several();
    n += several;
    choice.record(several, false, t.one * (several ? 0.9 : 1.0), t.images);
  }
  return static_cast<double>(n) / runs;
}

// However long a run takes and whatever its batch is, most runs take the faster way, soon and later.
void choose_threads(const Timing& t) {
  constexpr int kNever = 1 << 30;
  ThreadChoice choice;
  const double soon = share_on_several(choice, t, 272, kNever);
  const double free = share_on_several(choice, t, 5000, kNever);
  const double busy = share_on_several(choice, t, 5000, 3);
  const double free_again = share_on_several(choice, t, 5000, kNever);
  ThreadChoice lonely;
  const double alone = share_without_help(lonely, t, 5000);
  const double joined = share_on_several(lonely, t, 5000, kNever);
  if (soon < 0.8 || free < 0.95 || busy > 0.1 || free_again < 0.85 || alone > 0.03 || joined < 0.85) {
    std::printf("%zu images in %g s: several threads for %g of the first runs and %g of the next on a free "
                "machine, %g on a busy one and %g after it, %g without help and %g after it\n",
                t.images, t.one, soon, free, busy, free_again, alone, joined);
    std::exit(1);
  }
}

constexpr int kThreads[] = {2, 3, 7};

void run_stages_at_random() {
  const RandomStages stages;
  int helpers = kThreads[pick(0, 2)] - 1;
  run_stages({lend, &helpers}, static_cast<int>(pick(1, 9)), stages);
  if (!stages.complete()) {
    std::printf("stages are out of order, or a part did not run once\n");
    std::exit(1);
  }
}

// Some images of a program on 2, 3 and 7 threads, of which some are missing: the bits of one thread; and
// those of each image alone.
void share(const Example& c) {
  const auto n = static_cast<size_t>(pick(1, 9));
  const Program program = parse_program(c.code, c.constants);
  const auto shapes = infer_shapes(program, {c.input});
  std::vector<float> x(n * c.input.size());
  for (float& v : x) v = static_cast<float>(pick(-127, 127)) / 128;
  if (pick(0, 9) == 0) x[static_cast<size_t>(pick(0, static_cast<int64_t>(x.size()) - 1))] = HUGE_VALF;
  int n_isas = 0;
  const FggpIsa* const* all = fggp_isas(&n_isas);
  const FggpIsa* isa = all[pick(0, n_isas - 1)];
  if (!isa->supported()) isa = &fggp_best_isa();
  const auto run = [&](int n_threads) {
    std::vector<std::vector<float>> out;
    std::vector<float*> to;
    for (int o : program.outputs) out.emplace_back(n * shapes[static_cast<size_t>(o)].size(), 7.0f);
    for (auto& o : out) to.push_back(o.data());
    const float* in = x.data();
    int helpers = n_threads - 1;
    const Threads threads = n_threads > 1 ? Threads{lend, &helpers} : Threads{};
    Runner(program, *isa, {n_threads, 1}).run({c.input}, static_cast<int64_t>(n), &in, to.data(), threads);
    return out;
  };
  const auto want = run(1);
  for (size_t i = 0; i < n; i++) {
    std::vector<std::vector<float>> one;
    std::vector<float*> to;
    for (int o : program.outputs) one.emplace_back(shapes[static_cast<size_t>(o)].size());
    for (auto& o : one) to.push_back(o.data());
    const float* in = x.data() + i * c.input.size();
    Runner(program, *isa, {1, 1}).run({c.input}, 1, &in, to.data(), Threads());
    for (size_t k = 0; k < one.size(); k++)
      if (std::memcmp(one[k].data(), want[k].data() + i * one[k].size(), one[k].size() * sizeof(float))) {
        std::printf("%s: image %zu of %zu has other bits than alone\n", isa->name, i, n);
        std::exit(1);
      }
  }
  for (const int n_threads : kThreads) {
    const auto got = run(n_threads);
    for (size_t k = 0; k < want.size(); k++)
      if (std::memcmp(got[k].data(), want[k].data(), want[k].size() * sizeof(float))) {
        std::printf("%s: %d threads give other bits than one\n", isa->name, n_threads);
        std::exit(1);
      }
  }
}

// Several sessions share one program's kernel, each with its own sizes, batches and helpers.
void concurrently(const Example& c) {
  constexpr int kSessions = 4, kRuns = 3;
  int n_isas = 0;
  const FggpIsa* const* all = fggp_isas(&n_isas);
  const FggpIsa* isa = all[pick(0, n_isas - 1)];
  if (!isa->supported()) isa = &fggp_best_isa();
  Runner runner(parse_program(c.code, c.constants), *isa, {static_cast<int>(pick(1, 6)), 1});
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

// fggp_harness [PROGRAMS [DAMAGED [SEED [CONCURRENT [SHARED]]]]]
int main(int argc, char** argv) {
  if (argc == 4 && !std::strcmp(argv[1], "--corpus")) return write_corpus(argv[2], std::atoi(argv[3]));
  const int programs = argc > 1 ? std::atoi(argv[1]) : 1000;
  const int damaged = argc > 2 ? std::atoi(argv[2]) : 5000;
  rng.seed(argc > 3 ? static_cast<unsigned>(std::atoi(argv[3])) : 1);
  const int concurrent = argc > 4 ? std::atoi(argv[4]) : 50;
  const int shared = argc > 5 ? std::atoi(argv[5]) : 100;
  int refused = 0;
  for (int i = 0; i < programs; i++) compare(random_example());
  for (int i = 0; i < programs / 4; i++) compare_rows();
  for (int i = 0; i < damaged; i++) {
    Example c = random_example();
    refused += damage(std::move(c));
  }
  for (int i = 0; i < concurrent; i++) concurrently(random_example());
  for (const double one : {50e-6, 500e-6, 50e-3})
    for (const size_t images : {1, 8, 200}) choose_threads({one, images});
  for (int i = 0; i < shared; i++) share(random_example());
  for (int i = 0; i < shared; i++) run_stages_at_random();
  int n = 0;
  const FggpIsa* const* all = fggp_isas(&n);
  for (int i = 0; i < n; i++)
    if (all[i]->supported()) std::printf("%s ", all[i]->name);
  std::printf("agree on %d programs, on %d by sessions at once and on %d on several threads; of %d "
              "damaged ones, %d were refused and the rest ran\n",
              programs, concurrent, shared, damaged, refused);
}
