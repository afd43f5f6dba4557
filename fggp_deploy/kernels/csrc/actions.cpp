// What each step of a program does when it runs; see execution.h.
#include <cstring>

#include "depthwise_plan.h"
#include "execution.h"
#include "gemm_plan.h"
#include "pool_plan.h"

namespace fggp {

void Execution::plan_actions(const Program& program) {
  for (int i = 0; i < program.n_inputs; i++) {
    value(i).row_major = new_buffer(0);
    buffers_.back().input = i;
  }
  conv_of_step_.assign(program.steps.size(), nullptr);
  for (size_t i = 0; i < program.steps.size(); i++) {
    const Step& s = program.steps[i];
    const int out = program.n_inputs + static_cast<int>(i);
    switch (s.op) {
      case Op::kConv:
        if (is_depthwise(s.shape))
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
        if (value(out).shape.vector()) {
          add_flat_sum(s, out);
        } else {
          ConvShape identity;
          identity.cout = identity.cin = identity.group = value(out).shape.channels;
          add_depthwise(s, identity, out);
        }
        break;
    }
  }
  for (size_t k = 0; k < program.outputs.size(); k++) add_output(program.outputs[k], k);
}

// For each channel: y[i] = x[index[i]], or 0 where the index is negative.
void Execution::add_gather(std::vector<int32_t> index, int channels, int x, size_t x_plane, int y,
                           size_t y_plane) {
  const double work = kCopyWork * static_cast<double>(index.size()) * channels;
  add_action([this, x, x_plane, y, y_plane, index = std::move(index),
              borders = even_split(channels, pieces(work, tasks_))](const Context& c) {
    const float* from = source(c, x);
    float* to = address(c, y);
    in_parallel(*c.threads, borders.size() - 1, [&](size_t t) {
      for (auto ch = static_cast<size_t>(borders[t]); ch < static_cast<size_t>(borders[t + 1]);
           ch++)
        isa_.gather(index.data(), index.size(), from + ch * x_plane, to + ch * y_plane);
    });
  });
}

void Execution::add_conv(const Step& s, size_t step, int out) {
  const ValueShape in = value(s.input).shape, shape = value(out).shape;
  auto plan = std::make_unique<ConvPlan>();
  plan->isa = &isa_;
  plan->shape = s.shape;
  plan->out = value(out).places.front().layout;
  plan->act = s.act;
  const int x = find(s.input, input_layout(s.shape, plan->out, in.height, in.width), &plan->in);
  const int r = s.residual >= 0 ? find(s.residual, plan->out, &plan->residual) : -1;
  plan->pack(*s.rows, *s.bias, s.variant);
  const int y = value(out).places.front().buffer = new_buffer(plan->out.size());
  const double work = static_cast<double>(s.rows->nonzeros() + 4 * s.rows->begin.size()) *
                      static_cast<double>(shape.height * shape.width);
  touch(x);
  if (r >= 0) touch(r);
  add_action([this, conv = plan.get(), x, r, y,
              borders = plan->split(pieces(work, tasks_))](const Context& c) {
    const float* from = source(c, x);
    const float* add = r >= 0 ? source(c, r) : nullptr;
    float* to = address(c, y);
    in_parallel(*c.threads, borders.size() - 1,
                [&](size_t t) { conv->run(from, add, to, borders[t], borders[t + 1]); });
  });
  conv_of_step_[step] = plan.get();
  convs_.push_back(std::move(plan));
}

void Execution::add_depthwise(const Step& s, const ConvShape& shape, int out) {
  const ValueShape in = value(s.input).shape;
  const Layout to = value(out).places.front().layout;
  Layout from, residual;
  const int x = find(s.input, input_layout(shape, to, in.height, in.width), &from);
  const int r = s.residual >= 0 ? find(s.residual, to, &residual) : -1;
  auto plan = std::make_shared<DepthwisePlan>(isa_, shape, s.act, from, residual, to);
  if (s.rows)
    plan->set_weights(*s.rows, *s.bias);
  else
    plan->set_identity();
  const int y = value(out).places.front().buffer = new_buffer(to.size());
  const double work =
      (static_cast<double>(shape.taps()) + kCopyWork) * static_cast<double>(value(out).shape.size());
  touch(x);
  if (r >= 0) touch(r);
  add_action([this, plan, x, r, y,
              borders = even_split(to.channels, pieces(work, tasks_))](const Context& c) {
    in_parallel(*c.threads, borders.size() - 1, [&](size_t t) {
      plan->run(source(c, x), r >= 0 ? source(c, r) : nullptr, address(c, y), borders[t],
                borders[t + 1]);
    });
  });
}

void Execution::add_flat_sum(const Step& s, int out) {
  const int x = flat(s.input), r = s.residual >= 0 ? flat(s.residual) : -1;
  touch(x);
  const int y = new_row_major(out);
  add_action([this, act = s.act, x, r, y, n = value(out).shape.size()](const Context& c) {
    const float* from = source(c, x);
    const float* add = r >= 0 ? source(c, r) : nullptr;
    float* to = address(c, y);
    for (size_t i = 0; i < n; i++) {
      const float sum = add ? from[i] + add[i] : from[i];
      to[i] = act.on ? std::min(std::max(sum, act.lo), act.hi) : sum;
    }
  });
}

void Execution::add_pool(const Step& s, int out) {
  const ValueShape in = value(s.input).shape;
  const Layout to = value(out).places.front().layout;
  Layout from;
  const int x = find(s.input, input_layout(s.shape, to, in.height, in.width), &from);
  auto pool = std::make_shared<PoolPlan>(isa_, s.shape, from, to, s.op == Op::kAveragePool,
                                         s.count_padding);
  const int y = value(out).places.front().buffer = new_buffer(to.size());
  const double work = (static_cast<double>(s.shape.taps()) + kCopyWork) *
                      static_cast<double>(value(out).shape.size());
  add_action([this, pool, x, y,
              borders = even_split(to.channels, pieces(work, tasks_))](const Context& c) {
    in_parallel(*c.threads, borders.size() - 1, [&](size_t t) {
      pool->run(source(c, x), address(c, y), borders[t], borders[t + 1]);
    });
  });
}

void Execution::add_global_average(const Step& s, int out) {
  Layout l;
  const int x = find(s.input, value(s.input).places.front().layout, &l);
  const int y = new_row_major(out);
  const double work = static_cast<double>(l.size());
  add_action([this, l, x, y,
              borders = even_split(l.channels, pieces(work, tasks_))](const Context& c) {
    const auto sum = l.lanes() == 16 ? isa_.sum16 : isa_.sum4;
    const ptrdiff_t row = static_cast<ptrdiff_t>(l.row_vectors()) * l.lanes();
    const float scale = 1.0f / (static_cast<float>(l.height) * static_cast<float>(l.width));
    const float* from = source(c, x) + l.at(0, 0);
    float* to = address(c, y);
    in_parallel(*c.threads, borders.size() - 1, [&](size_t t) {
      for (int ch = borders[t]; ch < borders[t + 1]; ch++)
        to[ch] = scale * sum(from + static_cast<size_t>(ch) * l.plane(), row, l.tile_h, l.tile_w);
    });
  });
}

void Execution::add_gemm(const Step& s, int out) {
  const int x = flat(s.input), y = new_row_major(out);
  auto gemm = std::make_shared<GemmPlan>(isa_, s.rows, s.bias, s.act);
  add_action([this, gemm, x, y,
              borders = even_split(static_cast<int>(s.shape.cout), pieces(gemm->work(), tasks_))](
                 const Context& c) {
    in_parallel(*c.threads, borders.size() - 1, [&](size_t t) {
      gemm->run(source(c, x), address(c, y), borders[t], borders[t + 1]);
    });
  });
}

// Copies a value to an output unless it was made there.
void Execution::add_output(int i, size_t index) {
  const int x = flat(i);
  const Buffer& b = buffers_[static_cast<size_t>(x)];
  if (b.output == static_cast<int>(index)) return;
  const size_t bytes = value(i).shape.size() * sizeof(float);
  add_action([this, x, index, bytes](const Context& c) {
    std::memcpy(c.outputs[index], source(c, x), bytes);
  });
}

}  // namespace fggp
