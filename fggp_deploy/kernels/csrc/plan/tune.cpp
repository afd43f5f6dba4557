#include "plan/tune.h"

#include <algorithm>
#include <chrono>

namespace fggp {
namespace {

constexpr size_t kMinCandidates = 3, kCandidates = 24;
// Runs of the layer for each candidate, over all rounds of `fastest`.
constexpr double kRunsPerCandidate = 5;

double now() {
  using clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(clock::now().time_since_epoch()).count();
}

struct Candidate {
  ConvPlan plan;
  double best = 1e30;
};

// Least of some runs each, in rounds that keep the better third: noise only ever adds time.
Variant fastest(std::vector<Candidate>& all, const float* x, const float* r, float* y,
                double seconds) {
  const int channels = static_cast<int>(all.front().plan.shape.cout);
  for (int round = 0;; round++) {
    const double end = now() + seconds / 3;
    for (int repeat = 0; repeat < (round ? 6 : 2) || (repeat < 40 && now() < end); repeat++)
      for (Candidate& c : all) {
        const double start = now();
        c.plan.run(x, r, y, 0, channels);
        c.best = std::min(c.best, now() - start);
      }
    std::sort(all.begin(), all.end(),
              [](const Candidate& a, const Candidate& b) { return a.best < b.best; });
    if (round == 2 || all.size() == 1) return all.front().plan.variant();
    all.resize(std::max<size_t>(1, all.size() / 3));
  }
}

}  // namespace

void tune(Program& program, const FggpIsa& isa, const std::vector<ValueShape>& inputs,
          double seconds) {
  Packings packings;
  const Execution execution(program, isa, inputs, Sharing{}, packings);
  size_t n_convs = 0;
  for (size_t i = 0; i < program.steps.size(); i++) n_convs += execution.conv(i) != nullptr;
  for (size_t i = 0; i < program.steps.size(); i++) {
    const ConvPlan* base = execution.conv(i);
    if (!base) continue;
    Step& step = program.steps[i];
    Workspace x(base->in.size()), r(base->residual.size()), y(base->out.size());
    std::fill_n(x.data(), base->in.size(), 0.5f);
    std::fill_n(r.data(), base->residual.size(), 0.5f);
    const float* residual = step.residual >= 0 ? r.data() : nullptr;
    const double share = seconds / static_cast<double>(n_convs);
    std::vector<Candidate> all;
    size_t most = kCandidates;
    const auto rows = base->multiplied();
    for (const Variant& v : base->ranked(rows->nonzeros())) {
      if (all.size() == most) break;
      Candidate c{*base};
      c.plan.arrange(*rows, v);
      all.push_back(std::move(c));
      if (all.size() == 1) {  // as many as there is time for, at the speed of the first
        const int channels = static_cast<int>(base->shape.cout);
        for (int repeat = 0; repeat < 2; repeat++) {
          const double start = now();
          all[0].plan.run(x.data(), residual, y.data(), 0, channels);
          all[0].best = std::min(all[0].best, now() - start);
        }
        const double affordable = share / (kRunsPerCandidate * std::max(all[0].best, 1e-7));
        if (affordable < static_cast<double>(kCandidates))
          most = std::max(kMinCandidates, static_cast<size_t>(affordable));
      }
    }
    step.variant = fastest(all, x.data(), residual, y.data(), share);
  }
}

}  // namespace fggp
