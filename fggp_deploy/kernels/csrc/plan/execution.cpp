#include "plan/execution.h"

#include <algorithm>
#include <chrono>

#include "plan/depthwise_plan.h"
#include "plan/section.h"

namespace fggp {
namespace {

// Tiles with their halos may take kMaxWaste times the floats of the largest value, and kFreeFloats in
// any case. Few networks take ten times as many.
constexpr size_t kMaxWaste = 64, kFreeFloats = size_t{1} << 22;
// A group of images is worth its moves between layouts if at least this share of the multiplied vectors
// are those of planes that lie side by side; and values must be this small (in floats), since offsets
// between images are 32-bit.
constexpr double kLeastShared = 0.1;
constexpr size_t kMaxGrouped = size_t{1} << 22;

// From planes of one layout to planes of so many images; `step` is that of `from`.
Rearrangement rearrangement(const FggpIsa& isa, std::vector<int32_t> index, const Layout& from, int images,
                            size_t step) {
  size_t source = from.plane();  // floats that may be read
  if (images > from.images) source += static_cast<size_t>(images - 1) * step;
  if (images < from.images) source -= static_cast<size_t>(from.images - 1) * step;
  return {isa, std::move(index), source};
}

}  // namespace

Workspace::Workspace(size_t floats) : memory_(new float[floats + 16]) {
  const auto address = reinterpret_cast<uintptr_t>(memory_.get());
  aligned_ = memory_.get() + (64 - address % 64) % 64 / sizeof(float);
}

Execution::Execution(const Program& program, const FggpIsa& isa,
                     const std::vector<ValueShape>& inputs, const Sharing& sharing,
                     Packings& packings, int images)
    : isa_(isa), sharing_(sharing), images_(images), packings_(packings), outputs_(program.outputs) {
  for (const ValueShape& shape : infer_shapes(program, inputs)) {
    values_.emplace_back();
    values_.back().shape = shape;
  }
  for (int o : program.outputs) output_shapes_.push_back(value(o).shape);
  const Program planned = fitted(program);
  plan_layouts(planned);
  check_layouts();
  share_lanes();
  plan_actions(planned);
  place_buffers();
}

// The same program for these sizes. Taps that meet only padding are left out. Along an axis with a single
// output the stride has no meaning, so it may be as large as the input, and so large that there is no
// second output: then one tile holds the whole input, which has the smallest halo.
Program Execution::fitted(const Program& program) {
  Program p = program;
  for (size_t i = 0; i < p.steps.size(); i++) {
    Step& s = p.steps[i];
    if (s.op != Op::kConv && s.op != Op::kMaxPool && s.op != Op::kAveragePool) continue;
    const ValueShape& in = value(s.input).shape;
    const ValueShape& out = value(p.n_inputs + static_cast<int>(i)).shape;
    if (out.height == 1) s.shape.stride_h = std::max(in.height, s.shape.room_h(in.height) + 1);
    if (out.width == 1) s.shape.stride_w = std::max(in.width, s.shape.room_w(in.width) + 1);
    if (s.op != Op::kConv) continue;
    const Taps taps = live_taps(s.shape, in.height, in.width);
    s.rows = packings_.with_taps(s.rows, s.shape, taps);
    s.shape = with_taps(s.shape, taps);
  }
  return p;
}

// If a window is much larger than its plane, the halo is many times as large as the plane.
void Execution::check_layouts() const {
  size_t largest = 0;
  for (const Value& v : values_) largest = std::max(largest, v.shape.size());
  for (const Value& v : values_)
    for (const Place& p : v.places)
      if (p.layout.size() > kFreeFloats && p.layout.size() / kMaxWaste > largest)
        throw Error("the tiles of a plane of " + std::to_string(v.shape.height) + " x " +
                    std::to_string(v.shape.width) + " would take " +
                    std::to_string(p.layout.size() / v.shape.size()) +
                    " times its memory: a window or a stride is too large for it");
}

// Four tiles of each image of a group fill the sixteen lanes.
void Execution::share_lanes() {
  const auto share = [this](Layout& l) {
    if (l.tiles() == 4) l.images = images_;
  };
  for (Value& v : values_) {
    share(v.own);
    for (Place& p : v.places) share(p.layout);
  }
}

bool Execution::group_pays() const {
  size_t largest = 0;
  for (const Value& v : values_) largest = std::max(largest, v.shape.size());
  return largest <= kMaxGrouped && shareable_vectors_ >= kLeastShared * conv_vectors_;
}

void Execution::need(int i, const Layout& wanted) {
  if (value(i).scale != 0.0f && !wanted.int8x4) need(i, wanted.with_int8x4(true));
  for (Place& p : value(i).places)
    if (p.layout.same_tiles(wanted)) {
      p.layout.halo = std::max(p.layout.halo, wanted.halo);
      return;
    }
  value(i).places.push_back({wanted, -1, false});
}

// What a step writes follows from what it reads, unless all its readers want it otherwise.
void Execution::plan_layouts(const Program& program) {
  choose_own(program);
  for (int o : program.outputs) value(o).readers++;
  for (size_t i = program.steps.size(); i-- > 0;) {
    const Step& s = program.steps[i];
    const int made = program.n_inputs + static_cast<int>(i);
    value(s.input).readers++;
    if (s.residual >= 0) value(s.residual).readers++;
    const Value& in = value(s.input);
    if (!value(made).in_layout) {
      if (s.op == Op::kGlobalAverage && !in.in_layout)
        need(s.input, choose_layout(in.shape.channels, in.shape.height, in.shape.width));
      else if (s.op == Op::kGlobalAverage && in.scale != 0.0f)
        need(s.input, in.own.with_int8x4(false));
      if (s.op == Op::kRound) {
        const Value& v = value(made);
        const ValueShape& shape = v.shape;
        need(made, v.places.empty() ? choose_layout(shape.channels, shape.height, shape.width)
                                    : v.places.front().layout.with_int8x4(false));
        for (const Place& p : v.places) need(s.input, p.layout.with_int8x4(false));
      }
      continue;
    }
    adopt_tiles(s, made);
    const Layout& own = value(made).own;
    need(s.input, input_of(s, own));
    if (s.residual >= 0) need(s.residual, residual_of(s, own));
  }
  // First the place that is written, with the halo that its readers want.
  for (Value& v : values_) {
    if (!v.in_layout) continue;
    Place own{v.own, -1, true};
    for (size_t k = 0; k < v.places.size(); k++)
      if (v.places[k].layout.same_tiles(v.own)) {
        own.layout = v.places[k].layout;
        v.places.erase(v.places.begin() + static_cast<ptrdiff_t>(k));
        break;
      }
    v.places.insert(v.places.begin(), own);
  }
}

// What a step does to a plane; an Add is a depthwise convolution with one tap.
ConvShape Execution::window(const Step& s) {
  if (s.op != Op::kAdd) return s.shape;
  ConvShape identity;
  identity.cout = identity.cin = identity.group = value(s.input).shape.channels;
  return identity;
}

// Whether each output element, a float, depends only on the input element at the same place.
bool mixes_no_pixels(const Step& s) {
  const ConvShape& c = s.shape;
  if (s.scale != 0.0f) return false;
  return s.op == Op::kAdd || (s.op == Op::kConv && !is_depthwise(c) && c.taps() == 1 &&
                              c.stride_h == 1 && c.stride_w == 1 &&
                              c.top + c.left + c.bottom + c.right == 0);
}

void Execution::choose_own(const Program& program) {
  const bool needs_no_tiles = std::all_of(program.steps.begin(), program.steps.end(), mixes_no_pixels);
  int made = program.n_inputs;
  for (const Step& s : program.steps) {
    Value& v = value(made++);
    const Value& in = value(s.input);
    v.scale = s.op == Op::kMaxPool && in.written_as_int8x4() ? in.scale : s.scale;
    if (s.op == Op::kRound) {
      v.zero_point = s.constant;
      v.rounds = s.input;
      continue;
    }
    if (needs_no_tiles)
      v.own = adjacent_layout(v.shape.channels, v.shape.height, v.shape.width);
    else if (s.op == Op::kConv || s.op == Op::kMaxPool || s.op == Op::kAveragePool)
      v.own = output_layout(s.shape, in.shape.height, in.shape.width);
    else if (s.op != Op::kAdd || v.shape.vector())
      continue;
    else if (in.in_layout)  // the layout of the input or the residual, so that one is not moved
      v.own = in.own;
    else if (s.residual >= 0 && value(s.residual).in_layout)
      v.own = value(s.residual).own;
    else
      v.own = choose_layout(v.shape.channels, v.shape.height, v.shape.width);
    v.own.channels = static_cast<int>(v.shape.channels);
    v.own.halo = 0;
    v.own.int8x4 = v.scale != 0.0f;
    v.in_layout = true;
  }
}

bool Execution::has_tiles(int i, const Layout& wanted) {
  if (!value(i).in_layout || value(i).own.same_tiles(wanted)) return true;
  for (const Place& p : value(i).places)
    if (p.layout.same_tiles(wanted)) return true;
  return false;
}

// If all readers want the same other tiles, a step may write these: then its input is moved from tiles
// to tiles instead of its output, which pays if the input is smaller.
void Execution::adopt_tiles(const Step& s, int made) {
  Value& v = value(made);
  if (v.places.size() != 1 || v.places[0].layout.same_tiles(v.own)) return;
  Layout wanted = v.places[0].layout;
  wanted.halo = 0;
  const ValueShape in = value(s.input).shape;
  const ConvShape shape = window(s);
  if (wanted.int8x4 != v.own.int8x4) return;
  if (wanted.grid_h * wanted.tile_h * shape.stride_h < in.height ||
      wanted.grid_w * wanted.tile_w * shape.stride_w < in.width)
    return;
  size_t cost = has_tiles(s.input, input_of(s, wanted)) ? 0 : in.size();
  if (s.residual >= 0 && !has_tiles(s.residual, residual_of(s, wanted))) cost += v.shape.size();
  if (cost < v.shape.size()) v.own = wanted;
}

// The buffer that holds a value in a layout with the wanted tiles, made now if it does not exist yet.
int Execution::find(int i, const Layout& wanted, Layout* found) {
  Value& v = value(i);
  for (Place& p : v.places) {
    if (!p.layout.same_tiles(wanted)) continue;
    *found = p.layout;
    if (p.ready) return touch(p.buffer);
    p.ready = true;
    const Layout& own = v.places.front().layout;
    if (v.scale != 0.0f && !p.layout.int8x4) {
      const int quantized = find(i, p.layout.with_int8x4(true), found);
      p.buffer = to_floats(quantized, *found, v);
      *found = p.layout = found->with_int8x4(false);
      return touch(p.buffer);
    }
    if (v.rounds >= 0) {
      const int floats = find(v.rounds, p.layout.with_int8x4(false), found);
      p.buffer = to_int8x4(floats, *found, v);
      *found = p.layout = found->with_int8x4(true);
      return touch(p.buffer);
    }
    const int from = touch(v.in_layout ? v.places.front().buffer : v.row_major);
    if (!v.in_layout && p.layout.is_row_major()) return p.buffer = from;
    p.buffer = new_buffer(p.layout.size(), p.layout.images);
    if (v.in_layout) {
      const size_t step = image_step(own, from);
      add_rearrangement(rearrangement(isa_, relayout_index(own, p.layout, step), own, p.layout.images, step),
                        p.layout.planes(), planes_of(own, from), planes_of(p.layout, p.buffer));
    } else
      add_pack(p.layout, from, p.buffer);
    return touch(p.buffer);
  }
  throw Error("internal: a layout was not planned");
}

// The buffer that holds a value row-major, made now if it does not exist yet.
int Execution::flat(int i) {
  Value& v = value(i);
  if (v.row_major >= 0) return touch(v.row_major);
  Layout from = v.places.front().layout;
  int x = v.rounds >= 0 ? find(i, from, &from) : touch(v.places.front().buffer);
  if (from.int8x4) {
    x = to_floats(x, from, v);
    from.int8x4 = false;
  }
  const int y = new_row_major(i);
  add_rearrangement(rearrangement(isa_, inverse_index(from), from, 1, image_step(from, x)), from.channels,
                    planes_of(from, x), {y, from.row_major()});
  return touch(y);
}

// The parts of an action on all images, in at most kMaxParts pieces.
class Execution::Actions : public Stages {
 public:
  Actions(const Execution& execution, const std::vector<Image>& images)
      : actions_(execution.actions_), images_(images) {}
  size_t count() const override { return actions_.size(); }
  int parts(size_t stage) const override { return std::min(all(stage), kMaxParts); }
  void run(size_t stage, int part) const override {
    const Action& action = actions_[stage];
    const int n = parts(stage), end = all(stage) * (part + 1) / n;
    for (int i = all(stage) * part / n; i < end; i++)
      action.run_part(images_[static_cast<size_t>(i / action.parts())], i % action.parts());
  }

 private:
  int all(size_t stage) const { return actions_[stage].parts() * static_cast<int>(images_.size()); }

  const std::vector<Action>& actions_;
  const std::vector<Image>& images_;
};

void Execution::run(const Image& image) const {
  for (size_t action = 0; action < actions_.size();) {
    const size_t end = end_of_each(action);
    Image one = image;
    for (; action < end && one.index < static_cast<size_t>(images_); one.index++)
      for (size_t a = action; a < end; a++) actions_[a].run_whole(one);
    if (end < actions_.size()) actions_[end].run_whole(image);
    action = end + 1;
  }
}

bool Execution::run(const std::vector<Image>& images, const Threads& threads) const {
  return run_stages(threads, workers(images.size()), Actions(*this, images));
}

std::vector<double> Execution::profile(const Image& image, int repeats) const {
  using Clock = std::chrono::steady_clock;
  std::vector<std::vector<double>> all(last_action_.size() + 1);
  for (int repeat = 0; repeat < repeats; repeat++) {
    size_t action = 0;
    for (size_t step = 0; step < all.size(); step++) {
      const size_t end = step < last_action_.size() ? last_action_[step] : actions_.size();
      const auto start = Clock::now();
      for (; action < end; action++) actions_[action].run_whole(image);
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
