#include "plan/runner.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>

namespace fggp {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kRemembered = 16;  // input sizes
constexpr size_t kIdle = 16;       // workspaces kept for the next runs
// From this number of rows on, computing them together is faster than one after the other.
constexpr int64_t kFewestRows = 2;

// What linear layers on `rows` rows cost in multiply-adds of the dense product, skipping zeros and
// not; fitted to times of 128 to 1,536 channels, 2 to 230 rows and 2 to 100% non-zeros (AVX-512).
constexpr double kSparseProduct = 2, kTransposed = 32, kWeightsRead = 2;

double sparse_cost(const Program& p, int64_t rows, int64_t pixels) {
  double cost = 0;
  for (const Step& s : p.steps) {
    if (s.op != Op::kGemm) continue;
    cost += kSparseProduct * static_cast<double>(s.rows->nonzeros()) * static_cast<double>(pixels);
    cost += kTransposed * static_cast<double>(s.shape.cin + s.shape.cout) * static_cast<double>(rows);
  }
  return cost;
}

double dense_cost(const Program& p, int64_t rows) {
  double cost = 0;
  for (const Step& s : p.steps)
    if (s.op == Op::kGemm)
      cost += static_cast<double>(s.shape.cin * s.shape.cout) * (static_cast<double>(rows) + kWeightsRead);
  return cost;
}

}  // namespace

Runner::Runner(Program program, const FggpIsa& isa, const Sharing& sharing)
    : program_(std::move(program)), isa_(isa), sharing_(sharing) {
  if (is_on_rows(program_)) over_pixels_ = std::make_unique<Runner>(over_pixels(program_), isa, sharing);
}

std::vector<ValueShape> Runner::outputs(const std::vector<ValueShape>& inputs) const {
  const std::vector<ValueShape> values = infer_shapes(program_, inputs);
  std::vector<ValueShape> shapes;
  for (int o : program_.outputs) shapes.push_back(values[static_cast<size_t>(o)]);
  return shapes;
}

std::shared_ptr<Runner::Planned> Runner::planned(const std::vector<ValueShape>& inputs,
                                                 Kind kind) {
  std::vector<int64_t> key{static_cast<int64_t>(kind)};
  for (const ValueShape& s : inputs)
    key.insert(key.end(), {s.flat, s.channels, s.height, s.width});
  const std::shared_ptr<Entry> entry = remembered(key);
  // Other sizes run meanwhile.
  const std::lock_guard<std::mutex> lock(entry->mutex);
  if (!entry->planned)
    entry->planned = std::make_shared<Planned>(kind == Kind::kZeros ? zeros_program() : program_, isa_, inputs,
                                               sharing_, packings_,
                                               kind == Kind::kGroup ? Execution::kGroup : 1);
  return entry->planned;
}

// The entry of this key, which is then the latest one; the oldest one may go.
std::shared_ptr<Runner::Entry> Runner::remembered(const std::vector<int64_t>& key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const auto& entry) { return entry->key == key; });
  if (found != entries_.end()) {
    std::rotate(entries_.begin(), found, found + 1);
  } else {
    entries_.insert(entries_.begin(), std::make_shared<Entry>());
    entries_.front()->key = key;
    if (entries_.size() > kRemembered) entries_.pop_back();
  }
  return entries_.front();
}

const Program& Runner::zeros_program() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!zeros_program_) zeros_program_ = std::make_unique<const Program>(with_zeros(program_));
  return *zeros_program_;
}

std::unique_ptr<Runner::Memory> Runner::borrow(size_t floats) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<Memory> m = std::move(idle_.back());
      idle_.pop_back();
      if (m->floats >= floats) return m;
    }
  }
  return std::unique_ptr<Memory>(new Memory{floats, Workspace(floats)});
}

void Runner::give_back(std::unique_ptr<Memory> memory) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (idle_.size() < kIdle) idle_.push_back(std::move(memory));
}

void Runner::run(const std::vector<ValueShape>& inputs, int64_t n, const float* const* in,
                 float* const* out, const Threads& threads) {
  const Batch batch{inputs, n, in, out, threads, nullptr};
  const auto vector = [](const ValueShape& s) { return s.vector(); };
  if (over_pixels_ && n >= kFewestRows && std::all_of(inputs.begin(), inputs.end(), vector))
    return run_rows(batch);
  run_batch(batch);
}

void Runner::run_batch(const Batch& batch) {
  const std::shared_ptr<Planned> single = planned(batch.inputs, Kind::kSingle);
  std::vector<int64_t> images = run_groups(*single, batch);
  if (!images.empty()) images = run_images(*single, batch, images);
  // The kernels skip the zeros of a weight, but 0 x NaN is NaN.
  if (!images.empty()) run_images(*planned(batch.inputs, Kind::kZeros), batch, images);
}

// Runs as many groups as there are for all threads alike, and returns the images that remain: those of no
// group, and all of a group in which some value is not finite.
std::vector<int64_t> Runner::run_groups(Planned& single, const Batch& batch) {
  const Execution& e = single.execution;
  const bool several = batch.threads.run && single.choice.prefers_several();
  const int64_t workers = several ? e.workers(static_cast<size_t>(batch.n)) : 1;
  const int64_t n = batch.n / (Execution::kGroup * workers) * workers;
  std::vector<int64_t> images;
  if (n > 0 && !batch.rows && e.group_pays()) {
    std::vector<int64_t> groups(static_cast<size_t>(n));
    std::iota(groups.begin(), groups.end(), 0);
    for (const int64_t group : run_images(*planned(batch.inputs, Kind::kGroup), batch, groups))
      for (int64_t i = 0; i < Execution::kGroup; i++) images.push_back(group * Execution::kGroup + i);
    for (int64_t i = n * Execution::kGroup; i < batch.n; i++) images.push_back(i);
    return images;
  }
  images.resize(static_cast<size_t>(batch.n));
  std::iota(images.begin(), images.end(), 0);
  return images;
}

// An image or a group that runs now. Everything is allocated before a thread of the caller's touches it, since
// nothing may throw there.
struct Runner::Slot {
  const Execution& e;
  const Batch& batch;
  const FggpIsa& isa;
  std::unique_ptr<Memory> memory;
  std::vector<const float*> from;
  std::vector<float*> to;
  float* workspace;
  int64_t image = 0;

  static size_t planes_floats(const Execution& e, const Batch& batch) {
    size_t floats = 0;
    for (size_t i = 0; batch.rows && i < batch.inputs.size(); i++) floats += batch.inputs[i].size();
    for (size_t i = 0; batch.rows && i < e.outputs().size(); i++) floats += e.outputs()[i].size();
    return floats;
  }
  Slot(Runner& runner, const Execution& execution, const Batch& images)
      : e(execution), batch(images), isa(runner.isa_),
        memory(runner.borrow(planes_floats(e, batch) + e.workspace_floats())),
        from(batch.inputs.size()), to(e.outputs().size()) {
    workspace = memory->workspace.data() + planes_floats(e, batch);
    float* at = memory->workspace.data();
    for (size_t i = 0; batch.rows && i < from.size(); at += batch.inputs[i++].size()) from[i] = at;
    for (size_t i = 0; batch.rows && i < to.size(); at += e.outputs()[i++].size()) to[i] = at;
  }

  // Returns whether the inputs are finite.
  bool begin(int64_t i) {
    image = i;
    const auto n = static_cast<size_t>(e.images()), index = static_cast<size_t>(image) * n;
    float* plane = memory->workspace.data();
    bool finite = true;
    for (size_t k = 0; k < from.size(); k++) {
      const ValueShape& s = batch.inputs[k];
      if (batch.rows)
        batch.rows->from_rows(isa, batch.in[k], s.channels, image, plane);
      else
        from[k] = batch.in[k] + index * s.size();
      plane += s.size();
      finite = finite && isa.finite(from[k], n * s.size());
    }
    for (size_t k = 0; !batch.rows && k < to.size(); k++)
      to[k] = batch.out[k] + index * e.outputs()[k].size();
    return finite;
  }
  Execution::Image at() const { return {from.data(), to.data(), workspace}; }
  // Returns whether the outputs are finite.
  bool end() const {
    bool finite = true;
    for (size_t k = 0; k < to.size(); k++) {
      const ValueShape& s = e.outputs()[k];
      if (batch.rows) batch.rows->to_rows(isa, to[k], s.channels, image, batch.out[k]);
      finite = finite && isa.finite(to[k], static_cast<size_t>(e.images()) * s.size());
    }
    return finite;
  }
};

// `images` are those of groups if the execution computes groups. Returns those that have an input or an
// output that is not finite.
std::vector<int64_t> Runner::run_images(Planned& planned, const Batch& batch,
                                        const std::vector<int64_t>& images) {
  const Execution& e = planned.execution;
  // While there is an image for every thread, a thread takes a whole one: it waits for nobody, and its
  // cache holds all that it works on. All threads share the steps of the images that remain.
  ThreadChoice& choice = planned.choice;
  const auto available = static_cast<size_t>(batch.threads.run ? e.workers(images.size()) : 1);
  const size_t workers = available > 1 && choice.several() ? available : 1;
  const auto start = Clock::now();
  const size_t shared = workers > 1 && e.images() == 1 ? images.size() % workers : 0;
  const size_t whole = images.size() - shared;
  const size_t n_slots = std::max(whole ? workers : 0, shared);
  std::vector<Slot> slots;
  slots.reserve(n_slots);
  while (slots.size() < n_slots) slots.emplace_back(*this, e, batch);
  std::vector<char> ordinary(images.size(), 1);
  std::atomic<size_t> next{0};
  bool helped = in_parallel(whole ? batch.threads : Threads(), whole ? workers : 0, [&](size_t worker) {
    Slot& s = slots[worker];
    for (size_t k; (k = next++) < whole;) {
      const bool before = s.begin(images[k]);
      e.run(s.at());
      ordinary[k] = s.end() && before;
    }
  });
  std::vector<Execution::Image> abreast;
  for (size_t k = 0; k < shared; k++) {
    ordinary[whole + k] = slots[k].begin(images[whole + k]);
    abreast.push_back(slots[k].at());
  }
  if (shared) helped |= e.run(abreast, batch.threads);
  for (size_t k = 0; k < shared; k++) ordinary[whole + k] &= slots[k].end();
  const std::chrono::duration<double> seconds = Clock::now() - start;
  if (available > 1)
    choice.record(workers > 1, helped, seconds.count(), images.size());
  for (Slot& s : slots) give_back(std::move(s.memory));
  std::vector<int64_t> others;
  for (size_t k = 0; k < images.size(); k++)
    if (!ordinary[k]) others.push_back(images[k]);
  return others;
}

const DenseRows& Runner::dense_rows() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!dense_rows_) dense_rows_ = std::make_unique<const DenseRows>(program_, isa_);
  return *dense_rows_;
}

void Runner::run_planes(const Batch& rows, const RowPlanes& planes) {
  std::vector<ValueShape> shapes;
  for (const ValueShape& s : rows.inputs) shapes.push_back(planes.shape(s.channels));
  run_batch({shapes, planes.planes, rows.in, rows.out, rows.threads, &planes});
}

void Runner::run_rows(const Batch& batch) {
  const RowPlanes planes(batch.n, batch.threads.run ? sharing_.threads : 1);
  if (sparse_cost(program_, batch.n, planes.planes * planes.pixels) < dense_cost(program_, batch.n))
    return over_pixels_->run_planes(batch, planes);
  const DenseRows& dense = dense_rows();
  const std::vector<ValueShape> values = infer_shapes(program_, batch.inputs);
  auto memory = borrow(dense.scratch_floats(batch.n, values));
  dense.run(batch.n, values, batch.in, batch.out, memory->workspace.data(), batch.threads,
            sharing_);
  give_back(std::move(memory));
}

}  // namespace fggp
