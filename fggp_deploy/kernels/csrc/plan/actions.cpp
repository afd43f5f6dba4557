// The actions of each step at run time; see execution.h.
#include <algorithm>
#include <cstring>

#include "plan/depthwise_plan.h"
#include "plan/execution.h"
#include "plan/gemm_plan.h"
#include "plan/pool_plan.h"
#include "plan/section.h"

namespace fggp {
namespace {

// Floats that two fused steps keep between them: half of a usual second-level cache.
constexpr size_t kChunk = 131072;

// Of larger planes (in floats) the permutations would not fit into the nearest cache.
constexpr size_t kSmallPlane = 4096;

// In multiply-adds, bias and activation included.
double conv_work(const Step& s, const ValueShape& out) {
  return static_cast<double>(s.rows->nonzeros() + 4 * s.rows->begin.size()) *
         static_cast<double>(out.height * out.width);
}

double depthwise_work(const ConvShape& s, const ValueShape& out) {
  return (static_cast<double>(s.taps()) + kCopyWork) * static_cast<double>(out.size());
}

}  // namespace

// The number of parts into which an action is divided that has this much work for each of its images.
int Execution::cut(int images, double work) {
  work_ += work * images_;
  return sharing_.parts(work * images);
}

void Execution::plan_actions(const Program& program) {
  for (int i = 0; i < program.n_inputs; i++) {
    value(i).row_major = new_buffer(0, 1);
    buffers_.back().input = i;
    buffers_.back().step = value(i).shape.size();
  }
  conv_of_step_.assign(program.steps.size(), nullptr);
  for (size_t i = 0; i < program.steps.size(); i++) {
    const Step& s = program.steps[i];
    const int out = program.n_inputs + static_cast<int>(i);
    switch (s.op) {
      case Op::kConv:
        if (i + 1 < program.steps.size() && can_fuse(s, program.steps[i + 1], out)) {
          add_conv_depthwise(s, program.steps[i + 1], i, out);
          i++;
        } else if (is_depthwise(s.shape))
          add_depthwise(s, s.shape, out);
        else
          add_conv(s, i, out);
        break;
      case Op::kMaxPool:
      case Op::kAveragePool:
        add_pool(s, out);
        break;
      case Op::kGlobalAverage:
        add_global_average(s, out);
        break;
      case Op::kFlatten:
        value(out).row_major = flat(s.input);
        break;
      case Op::kGemm:
        add_gemm(s, out);
        break;
      case Op::kAdd:
        if (value(out).shape.vector())
          add_flat_sum(s, out);
        else
          add_depthwise(s, window(s), out);
        break;
      case Op::kRound:  // `find` does it for each layout
        break;
    }
    last_action_.resize(i + 1, actions_.size());  // a fused step ends where the next one does
  }
  for (size_t k = 0; k < program.outputs.size(); k++) add_output(program.outputs[k], k);
}

void Execution::add_parts(int images, int n, double work, Run run) {
  add_action(images, even_split(n, cut(images, work)), std::move(run));
}

void Execution::add_action(int images, std::vector<int> borders, Run run) {
  actions_.push_back({images < images_, std::move(borders), std::move(run)});
}

Execution::Planes Execution::planes_of(const Layout& l, int buffer) {
  return {buffer, l.plane(), l.images, static_cast<size_t>(l.tiles())};
}

// Only if x holds a group and y does not, each image begins at lanes of its own.
void Execution::add_rearrangement(Rearrangement how, int channels, const Planes& x, const Planes& y) {
  const double work = how.cost() * channels / y.images;
  const size_t lanes = x.images > y.images ? x.lanes : 0;
  add_parts(y.images, channels, work,
            [this, x, y, lanes, how = std::move(how)](const Image& c, int first, int last) {
    const auto begin = static_cast<size_t>(first);
    how.run(source(c, x.buffer) + c.index * lanes + begin * x.plane, x.plane,
            address(c, y.buffer) + begin * y.plane, y.plane, last - first);
  });
}

// From row-major to tiles, a row of a tile at a time.
void Execution::add_pack(const Layout& to, int x, int y) {
  const size_t step = buffers_[static_cast<size_t>(x)].step;
  if (to.adjacent || to.plane() <= kSmallPlane) {
    Rearrangement how(isa_, pack_index(to, step), to.row_major() + static_cast<size_t>(to.images - 1) * step);
    if (to.adjacent || how.cost() < pack_cost(isa_, to))
      return add_rearrangement(std::move(how), to.channels, {x, to.row_major()}, planes_of(to, y));
  }
  const int rows = to.tile_h + 2 * to.halo;
  const double work = kCopyWork * static_cast<double>(to.size()) / to.images;
  add_parts(to.images, to.channels * rows, work,
            [this, to, x, y, rows, step](const Image& c, int first, int last) {
    for (int i = first; i < last; i++) {
      const auto channel = static_cast<size_t>(i / rows);
      pack_row(isa_, to, i % rows - to.halo, source(c, x) + channel * to.row_major(), step,
               address(c, y) + channel * to.plane());
    }
  });
}

ConvPlan* Execution::make_conv(const Step& s, int out, int* x, int* r) {
  auto plan = std::make_unique<ConvPlan>();
  plan->isa = &isa_;
  plan->shape = s.shape;
  plan->activation = s.activation;
  if (multiplies_int8(s)) {
    plan->out = value(out).places.front().layout;
    plan->in_scale = value(s.input).scale;
    plan->in_zero_point = value(s.input).zero_point;
    plan->out_scale = value(out).scale;
  } else {
    plan->out = floats_of(out);
  }
  *x = find(s.input, input_of(s, plan->out), &plan->in);
  *r = s.residual >= 0 ? find(s.residual, residual_of(s, plan->out), &plan->residual) : -1;
  if (plan->residual.int8x4) plan->residual_scale = value(s.residual).scale;
  touch(*x);
  plan->pack(s.rows, *s.bias, s.variant, packings_);
  const double vectors = static_cast<double>(s.rows->nonzeros()) * plan->out.tile_h * plan->out.tile_w;
  conv_vectors_ += vectors;
  if (plan->out.tiles() == 4) shareable_vectors_ += vectors;
  convs_.push_back(std::move(plan));
  return convs_.back().get();
}

void Execution::add_conv(const Step& s, size_t step, int out) {
  int x, r;
  const ConvPlan* conv = conv_of_step_[step] = make_conv(s, out, &x, &r);
  const bool floats = !multiplies_int8(s);
  const int y = floats ? begin_floats(out) : new_own(out);
  // A part is a run of the plane's blocks, and shares the first and the last of them with other parts
  // by output channels. So parts share few reads, and a part finds most of its input in its own cache,
  // because its neighbors in the previous steps were the same.
  const int parts = cut(conv->out.images, conv_work(s, value(out).shape));
  std::vector<int> slices = conv->split(parts);
  const int n_slices = static_cast<int>(slices.size()) - 1;
  add_action(conv->out.images, even_split(conv->blocks() * n_slices, parts),
             [this, conv, x, r, y, n_slices, slices = std::move(slices)](const Image& c, int first, int last) {
    const float* from = source(c, x);
    const float* add = r >= 0 ? source(c, r) : nullptr;
    float* to = address(c, y);
    if (last - first == conv->blocks() * n_slices) return conv->run(from, add, to, 0, slices.back());
    while (first < last) {
      const int block = first / n_slices, end = std::min(last, (block + 1) * n_slices);
      conv->run_block(block, from, add, to, slices[static_cast<size_t>(first - block * n_slices)],
                      slices[static_cast<size_t>(end - block * n_slices)]);
      first = end;
    }
  });
  if (floats) end_floats(out, y);
}

// Whether a depthwise convolution is the only reader of the one before it, in the same tiles.
bool Execution::can_fuse(const Step& s, const Step& next, int out) {
  if (s.op != Op::kConv || is_depthwise(s.shape)) return false;
  if (next.op != Op::kConv || !is_depthwise(next.shape)) return false;
  if (multiplies_int8(s) || value(out).scale != 0.0f || value(out + 1).scale != 0.0f) return false;
  return next.input == out && value(out).readers == 1 && value(out).places.size() == 1;
}

// Runs both convolutions, some channels at a time, so that the values between them stay in the caches.
void Execution::add_conv_depthwise(const Step& s, const Step& next, size_t step, int out) {
  int x, r, r2;
  const ConvPlan* conv = conv_of_step_[step] = make_conv(s, out, &x, &r);
  const auto depthwise = make_depthwise(next, next.shape, conv->out, out + 1, &r2);
  touch(x);
  if (r >= 0) touch(r);
  const size_t plane = conv->out.plane();
  const auto chunk = static_cast<int>(std::max<size_t>(kChunk / plane, 1));
  const int run = (chunk + conv->group() - 1) / conv->group() * conv->group();
  const double work = conv_work(s, value(out).shape) + depthwise_work(next.shape, value(out + 1).shape);
  const int images = conv->out.images;
  std::vector<int> borders = conv->split(cut(images, work));
  const size_t between = static_cast<size_t>(run) * plane;
  const int scratch = new_buffer(between * (borders.size() - 1), images);
  const int y = new_own(out + 1);
  const auto part_of = [borders](int first) {
    return static_cast<size_t>(std::lower_bound(borders.begin(), borders.end(), first) - borders.begin());
  };
  add_action(images, std::move(borders), [this, conv, depthwise, x, r, r2, y, scratch, between, run,
                                          part_of](const Image& c, int first, int last) {
    float* middle = address(c, scratch) + part_of(first) * between;
    for (int end; first < last; first = end) {
      end = std::min(first + run, last);
      const int m = depthwise->multiplier();
      conv->run(source(c, x), r >= 0 ? source(c, r) : nullptr, middle, first, end, first);
      depthwise->run(middle, r2 >= 0 ? source(c, r2) : nullptr, address(c, y), first * m, end * m, first);
    }
  });
}

std::shared_ptr<DepthwisePlan> Execution::make_depthwise(const Step& s, const ConvShape& shape,
                                                         const Layout& from, int out, int* r) {
  const Layout to = floats_of(out);
  Layout residual;
  *r = s.residual >= 0 ? find(s.residual, to, &residual) : -1;
  auto plan = std::make_shared<DepthwisePlan>(isa_, shape, s.activation, from, residual, to);
  if (s.rows)
    plan->set_weights(*s.rows, *s.bias);
  else
    plan->set_identity();
  return plan;
}

void Execution::add_depthwise(const Step& s, const ConvShape& shape, int out) {
  const Layout to = value(out).places.front().layout;
  Layout from;
  int r;
  const int x = find(s.input, input_of(s, to), &from);
  const auto plan = make_depthwise(s, shape, from, out, &r);
  touch(x);
  const int y = begin_floats(out);
  add_parts(to.images, to.channels, depthwise_work(shape, value(out).shape),
            [this, plan, x, r, y](const Image& c, int first, int last) {
    plan->run(source(c, x), r >= 0 ? source(c, r) : nullptr, address(c, y), first, last);
  });
  end_floats(out, y);
}

void Execution::add_flat_sum(const Step& s, int out) {
  const int x = flat(s.input), r = s.residual >= 0 ? flat(s.residual) : -1;
  touch(x);
  const int y = new_row_major(out);
  add_action(1, {0, 1}, [this, activation = s.activation, x, r, y,
                         n = value(out).shape.size()](const Image& c, int, int) {
    const float* from = source(c, x);
    const float* add = r >= 0 ? source(c, r) : nullptr;
    float* to = address(c, y);
    for (size_t i = 0; i < n; i++) to[i] = activated(activation, add ? from[i] + add[i] : from[i]);
  });
}

void Execution::add_pool(const Step& s, int out) {
  const Layout to = value(out).places.front().layout;
  Layout from;
  const int x = find(s.input, input_of(s, to), &from);
  auto pool = std::make_shared<PoolPlan>(isa_, s.shape, from, to, s.op == Op::kAveragePool,
                                         s.count_padding);
  const int y = new_own(out);
  const double work = (static_cast<double>(s.shape.taps()) + kCopyWork) *
                      static_cast<double>(value(out).shape.size());
  add_parts(to.images, to.planes(), work, [this, pool, x, y](const Image& c, int first, int last) {
    pool->run(source(c, x), address(c, y), first, last);
  });
}

void Execution::add_global_average(const Step& s, int out) {
  Layout l;
  const int x = find(s.input, value(s.input).places.front().layout.with_int8x4(false), &l);
  const int y = new_row_major(out);
  const double work = static_cast<double>(l.size()) / l.images;
  add_parts(1, l.channels, work, [this, l, x, y](const Image& c, int first, int last) {
    const auto sum = l.tiles() == 16 ? isa_.sum16 : isa_.sum4;
    const ptrdiff_t row = static_cast<ptrdiff_t>(l.row_vectors()) * l.lanes();
    const float scale = 1.0f / (static_cast<float>(l.height) * static_cast<float>(l.width));
    const size_t lane = l.images > 1 ? c.index * static_cast<size_t>(l.tiles()) : 0;
    const float* from = source(c, x) + l.at(0, 0) + lane;
    float* to = address(c, y);
    for (int ch = first; ch < last; ch++)
      to[ch] = scale * sum(from + static_cast<size_t>(ch) * l.plane(), row, l.lanes(), l.tile_h, l.tile_w);
  });
}

void Execution::add_gemm(const Step& s, int out) {
  const int x = flat(s.input), r = s.residual >= 0 ? flat(s.residual) : -1;
  touch(x);
  const int y = new_row_major(out);
  auto gemm = std::make_shared<GemmPlan>(isa_, s.rows, s.bias, s.activation);
  add_parts(1, static_cast<int>(s.shape.cout), gemm->work(),
            [this, gemm, x, r, y](const Image& c, int first, int last) {
    gemm->run(source(c, x), r >= 0 ? source(c, r) : nullptr, address(c, y), first, last);
  });
}

// Copies a value to an output unless it was made there.
void Execution::add_output(int i, size_t index) {
  const int x = flat(i);
  const Buffer& b = buffers_[static_cast<size_t>(x)];
  if (b.output == static_cast<int>(index)) return;
  add_action(1, {0, 1}, [this, x, index, n = value(i).shape.size()](const Image& c, int, int) {
    std::memcpy(c.outputs[index] + c.index * n, source(c, x), n * sizeof(float));
  });
}

}  // namespace fggp
