#include "execution.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "pool_plan.h"

namespace fggp {
namespace {

constexpr size_t kMaxArena = size_t{1} << 34;  // floats
// Below this many multiply-adds a step is not worth another thread.
constexpr double kWorkPerTask = 150e3;

template <class F>
void in_parallel(const Threads& threads, size_t n, const F& f) {
  if (n <= 1 || !threads.run) {
    for (size_t i = 0; i < n; i++) f(i);
    return;
  }
  threads.run(
      threads.self, n, [](void* arg, size_t i) { (*static_cast<const F*>(arg))(i); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

std::vector<int> even_split(int channels, int n) {
  std::vector<int> borders{0};
  for (int i = 1; i <= n; i++) {
    const int border = static_cast<int>(int64_t{channels} * i / n);
    if (border > borders.back()) borders.push_back(border);
  }
  return borders;
}

int pieces(double work, int tasks) {
  return std::clamp(static_cast<int>(work / kWorkPerTask), 1, tasks);
}

}  // namespace

Workspace::Workspace(size_t floats) : memory_(new float[floats + 16]) {
  const auto address = reinterpret_cast<uintptr_t>(memory_.get());
  aligned_ = memory_.get() + (64 - address % 64) % 64 / sizeof(float);
}

Execution::Execution(const Program& program, const FggpIsa& isa,
                     const std::vector<ValueShape>& inputs, int tasks) {
  for (const ValueShape& shape : infer_shapes(program, inputs)) {
    values_.emplace_back();
    values_.back().shape = shape;
  }
  for (int o : program.outputs) output_shapes_.push_back(values_[static_cast<size_t>(o)].shape);
  plan_layouts(program);
  plan_actions(program, isa, tasks);
  place_buffers();
}

void Execution::need(int value, const Layout& wanted) {
  for (Place& p : values_[static_cast<size_t>(value)].places)
    if (p.layout.same_tiles(wanted)) {
      p.layout.halo = std::max(p.layout.halo, wanted.halo);
      return;
    }
  values_[static_cast<size_t>(value)].places.push_back({wanted, -1, false});
}

void Execution::plan_layouts(const Program& program) {
  // What a step writes follows from its shape alone; halos grow with what the readers need.
  for (size_t i = 0; i < program.steps.size(); i++) {
    const Step& s = program.steps[i];
    Value& v = values_[static_cast<size_t>(program.n_inputs) + i];
    const ValueShape in = values_[static_cast<size_t>(s.input)].shape;
    if (s.op == Op::kConv || s.op == Op::kMaxPool || s.op == Op::kAveragePool) {
      v.in_layout = true;
      v.own = output_layout(s.shape, in.height, in.width);
      v.places.push_back({v.own, -1, true});
      need(s.input, input_layout(s.shape, v.own, in.height, in.width));
      if (s.residual >= 0) need(s.residual, v.own);
    } else if (s.op == Op::kGlobalAverage && !values_[static_cast<size_t>(s.input)].in_layout) {
      need(s.input, choose_layout(in.channels, in.height, in.width));
    }
  }
}

int Execution::new_buffer(size_t floats) {
  Buffer b;
  b.floats = (floats + 15) / 16 * 16;
  b.first = b.last = actions_.size();
  buffers_.push_back(b);
  return static_cast<int>(buffers_.size()) - 1;
}

int Execution::touch(int buffer) {
  buffers_[static_cast<size_t>(buffer)].last = actions_.size();
  return buffer;
}

float* Execution::address(const Context& c, int buffer) const {
  return c.workspace + buffers_[static_cast<size_t>(buffer)].offset;
}

const float* Execution::source(const Context& c, int buffer) const {
  const Buffer& b = buffers_[static_cast<size_t>(buffer)];
  return b.input >= 0 ? c.inputs[b.input] : c.workspace + b.offset;
}

// The buffer that holds a value in a layout with the wanted tiles, made now if it is not there.
int Execution::find(int value, const Layout& wanted, const FggpIsa& isa) {
  Value& v = values_[static_cast<size_t>(value)];
  for (Place& p : v.places) {
    if (!p.layout.same_tiles(wanted)) continue;
    if (p.ready) return touch(p.buffer);
    p.ready = true;
    const Layout to = p.layout;
    const int from_buffer = v.in_layout ? touch(v.places.front().buffer) : touch(v.row_major);
    p.buffer = new_buffer(to.size());
    const size_t from_plane = v.in_layout ? v.places.front().layout.plane()
                                          : v.shape.size() / static_cast<size_t>(to.channels);
    auto index = v.in_layout ? relayout_index(v.places.front().layout, to) : plane_index(to);
    actions_.push_back([this, &isa, from_buffer, from_plane, to, to_buffer = p.buffer,
                        index = std::move(index)](const Context& c) {
      const float* x = source(c, from_buffer);
      float* y = address(c, to_buffer);
      for (int ch = 0; ch < to.channels; ch++)
        isa.gather(index.data(), index.size(), x + static_cast<size_t>(ch) * from_plane,
                   y + static_cast<size_t>(ch) * to.plane());
    });
    return touch(p.buffer);
  }
  throw Error("internal: a layout was not planned");
}

// The buffer that holds a value row-major, made now if it is not there.
int Execution::flat(int value, const FggpIsa& isa) {
  Value& v = values_[static_cast<size_t>(value)];
  if (v.row_major >= 0) return touch(v.row_major);
  const Layout from = v.places.front().layout;
  const int from_buffer = touch(v.places.front().buffer);
  v.row_major = new_buffer(v.shape.size());
  actions_.push_back([this, &isa, from, from_buffer, to_buffer = v.row_major,
                      index = inverse_index(from)](const Context& c) {
    const float* x = source(c, from_buffer);
    float* y = address(c, to_buffer);
    for (int ch = 0; ch < from.channels; ch++)
      isa.gather(index.data(), index.size(), x + static_cast<size_t>(ch) * from.plane(),
                 y + static_cast<size_t>(ch) * index.size());
  });
  return touch(v.row_major);
}

void Execution::plan_actions(const Program& program, const FggpIsa& isa, int tasks) {
  for (int i = 0; i < program.n_inputs; i++) {
    values_[static_cast<size_t>(i)].row_major = new_buffer(0);
    buffers_.back().input = i;
  }
  conv_of_step_.assign(program.steps.size(), nullptr);
  for (size_t i = 0; i < program.steps.size(); i++) {
    const Step& s = program.steps[i];
    const size_t value = static_cast<size_t>(program.n_inputs) + i;
    const ValueShape in = values_[static_cast<size_t>(s.input)].shape;
    const ValueShape shape = values_[value].shape;
    switch (s.op) {
      case Op::kConv: {
        auto plan = std::make_unique<ConvPlan>();
        plan->isa = &isa;
        plan->shape = s.shape;
        plan->out = values_[value].places.front().layout;
        plan->act = s.act;
        const int x = find(s.input, input_layout(s.shape, plan->out, in.height, in.width), isa);
        const int r = s.residual >= 0 ? find(s.residual, plan->out, isa) : -1;
        for (const Place& p : values_[static_cast<size_t>(s.input)].places)
          if (p.buffer == x) plan->in = p.layout;
        if (r >= 0)
          for (const Place& p : values_[static_cast<size_t>(s.residual)].places)
            if (p.buffer == r) plan->residual = p.layout;
        plan->pack(*s.rows, *s.bias, s.variant);
        const int y = values_[value].places.front().buffer = new_buffer(plan->out.size());
        const double work = static_cast<double>(s.rows->nonzeros() + 4 * s.rows->begin.size()) *
                            static_cast<double>(shape.height * shape.width);
        touch(x);
        if (r >= 0) touch(r);
        actions_.push_back([this, conv = plan.get(), x, r, y,
                            borders = plan->split(pieces(work, tasks))](const Context& c) {
          const float* from = source(c, x);
          const float* add = r >= 0 ? source(c, r) : nullptr;
          float* to = address(c, y);
          in_parallel(*c.threads, borders.size() - 1, [&](size_t t) {
            conv->run(from, add, to, borders[t], borders[t + 1]);
          });
        });
        conv_of_step_[i] = plan.get();
        convs_.push_back(std::move(plan));
        break;
      }
      case Op::kMaxPool:
      case Op::kAveragePool: {
        const Layout out = values_[value].places.front().layout;
        const int x = find(s.input, input_layout(s.shape, out, in.height, in.width), isa);
        Layout from;
        for (const Place& p : values_[static_cast<size_t>(s.input)].places)
          if (p.buffer == x) from = p.layout;
        auto pool = std::make_shared<PoolPlan>(isa, s.shape, from, out,
                                               s.op == Op::kAveragePool, s.count_padding);
        const int y = values_[value].places.front().buffer = new_buffer(out.size());
        const double work = static_cast<double>(shape.size()) * static_cast<double>(s.shape.taps());
        touch(x);
        actions_.push_back([this, pool, x, y,
                            borders = even_split(out.channels, pieces(work, tasks))](
                               const Context& c) {
          in_parallel(*c.threads, borders.size() - 1, [&](size_t t) {
            pool->run(source(c, x), address(c, y), borders[t], borders[t + 1]);
          });
        });
        break;
      }
      case Op::kGlobalAverage: {
        const Layout l = values_[static_cast<size_t>(s.input)].places.front().layout;
        const int x = find(s.input, l, isa);
        const int y = values_[value].row_major = new_buffer(shape.size());
        actions_.push_back([this, &isa, l, x, y](const Context& c) {
          const float* from = source(c, x) + l.at(0, 0);
          float* to = address(c, y);
          const float scale = 1.0f / (static_cast<float>(l.height) * static_cast<float>(l.width));
          const ptrdiff_t row = static_cast<ptrdiff_t>(l.row_vectors()) * l.lanes();
          for (int ch = 0; ch < l.channels; ch++, from += l.plane())
            to[ch] = scale * (l.lanes() == 16 ? isa.sum16 : isa.sum4)(from, row, l.tile_h,
                                                                      l.tile_w);
        });
        break;
      }
      case Op::kFlatten:
        values_[value].row_major = flat(s.input, isa);
        break;
      case Op::kGemm: {
        const int x = flat(s.input, isa);
        const int y = values_[value].row_major = new_buffer(shape.size());
        const double work = static_cast<double>(s.rows->nonzeros()) * 4;
        actions_.push_back([this, &isa, rows = s.rows, bias = s.bias, x, y,
                            borders = even_split(static_cast<int>(shape.channels),
                                                 pieces(work, tasks))](const Context& c) {
          const float* from = source(c, x);
          float* to = address(c, y);
          in_parallel(*c.threads, borders.size() - 1, [&](size_t t) {
            for (int o = borders[t]; o < borders[t + 1]; o++) {
              const uint32_t first = rows->begin[static_cast<size_t>(o)];
              const uint32_t n = rows->begin[static_cast<size_t>(o) + 1] - first;
              to[o] = (*bias)[static_cast<size_t>(o)] +
                      isa.dot(rows->value.data() + first, rows->column.data() + first, n, from);
            }
          });
        });
        break;
      }
    }
    last_action_.push_back(actions_.size());
  }
  for (size_t k = 0; k < program.outputs.size(); k++) {
    const int x = flat(program.outputs[k], isa);
    const size_t bytes = output_shapes_[k].size() * sizeof(float);
    actions_.push_back([this, x, k, bytes](const Context& c) {
      std::memcpy(c.outputs[k], source(c, x), bytes);
    });
  }
}

// First fit: a buffer goes to the lowest place that no buffer alive at the same time covers.
void Execution::place_buffers() {
  std::vector<Buffer*> placed;
  for (Buffer& b : buffers_) {
    if (b.input >= 0) continue;
    std::vector<std::pair<size_t, size_t>> taken;
    for (const Buffer* p : placed)
      if (p->first <= b.last && b.first <= p->last)
        taken.emplace_back(p->offset, p->offset + p->floats);
    std::sort(taken.begin(), taken.end());
    size_t offset = 0;
    for (const auto& [from, to] : taken)
      if (offset + b.floats <= from)
        break;
      else
        offset = std::max(offset, to);
    b.offset = offset;
    arena_ = std::max(arena_, offset + b.floats);
    if (arena_ > kMaxArena) throw Error("the activations need too much memory");
    placed.push_back(&b);
  }
}

void Execution::run(const float* const* inputs, float* const* outputs, float* workspace,
                    const Threads& threads) const {
  const Context c{inputs, outputs, workspace, &threads};
  for (const Action& action : actions_) action(c);
}

std::vector<double> Execution::profile(const float* const* inputs, float* const* outputs,
                                       float* workspace, int repeats) const {
  using Clock = std::chrono::steady_clock;
  const Threads none;
  const Context c{inputs, outputs, workspace, &none};
  std::vector<std::vector<double>> all(last_action_.size() + 1);
  for (int repeat = 0; repeat < repeats; repeat++) {
    size_t action = 0;
    for (size_t step = 0; step < all.size(); step++) {
      const size_t end = step < last_action_.size() ? last_action_[step] : actions_.size();
      const auto start = Clock::now();
      for (; action < end; action++) actions_[action](c);
      all[step].push_back(
          std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    }
  }
  std::vector<double> medians;
  for (std::vector<double>& own : all) {
    const auto middle = own.begin() + static_cast<ptrdiff_t>(own.size() / 2);
    std::nth_element(own.begin(), middle, own.end());
    medians.push_back(*middle);
  }
  return medians;
}

}  // namespace fggp
