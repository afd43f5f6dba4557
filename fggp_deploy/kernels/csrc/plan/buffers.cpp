// The memory of an execution's values; see execution.h.
#include <algorithm>

#include "plan/execution.h"

namespace fggp {
namespace {

constexpr size_t kMaxArena = size_t{1} << 34;  // floats

}  // namespace

int Execution::new_buffer(size_t floats, int images) {
  Buffer b;
  b.floats = (floats + 15) / 16 * 16;
  if (images < images_) b.step = b.floats;
  b.first = b.last = actions_.size();
  buffers_.push_back(b);
  return static_cast<int>(buffers_.size()) - 1;
}

// A buffer for a whole value; that of an output is the caller's.
int Execution::new_row_major(int i) {
  const int buffer = new_buffer(value(i).shape.size(), 1);
  const auto output = std::find(outputs_.begin(), outputs_.end(), i);
  if (output != outputs_.end()) {
    buffers_.back().output = static_cast<int>(output - outputs_.begin());
    buffers_.back().step = value(i).shape.size();
  }
  return value(i).row_major = buffer;
}

// A buffer for the output of a step, which also serves as the row-major one if the layouts agree.
int Execution::new_own(int i) {
  const Layout& l = value(i).places.front().layout;
  const int buffer = l.is_row_major() ? new_row_major(i) : new_buffer(l.size(), l.images);
  return value(i).places.front().buffer = buffer;
}

int Execution::touch(int buffer) {
  buffers_[static_cast<size_t>(buffer)].last = actions_.size();
  return buffer;
}

float* Execution::address(const Image& c, int buffer) const {
  const Buffer& b = buffers_[static_cast<size_t>(buffer)];
  return (b.output >= 0 ? c.outputs[b.output] : c.workspace + b.offset) + c.index * b.step;
}

const float* Execution::source(const Image& c, int buffer) const {
  const Buffer& b = buffers_[static_cast<size_t>(buffer)];
  return b.input >= 0 ? c.inputs[b.input] + c.index * b.step : address(c, buffer);
}

// Floats between the same places of two images.
size_t Execution::image_step(const Layout& l, int buffer) const {
  return l.images > 1 ? static_cast<size_t>(l.tiles()) : buffers_[static_cast<size_t>(buffer)].step;
}

// The end of the run of actions that each image of a group passes before the next image does.
size_t Execution::end_of_each(size_t action) const {
  while (action < actions_.size() && actions_[action].each) action++;
  return action;
}

// A buffer that is used within one run of such actions serves one image after the other. Others must
// outlast the run for all images.
void Execution::plan_copies(Buffer& b) {
  const auto each = [this](size_t action) { return action < actions_.size() && actions_[action].each; };
  if (b.last < end_of_each(b.first)) {
    b.step = 0;
    return;
  }
  while (b.first > 0 && each(b.first) && each(b.first - 1)) b.first--;
  while (each(b.last) && each(b.last + 1)) b.last++;
  if (b.step) b.floats *= static_cast<size_t>(images_);
}

// First fit: a buffer gets the lowest offset that no buffer alive at the same time covers.
void Execution::place_buffers() {
  std::vector<Buffer*> placed;
  for (Buffer& b : buffers_) {
    if (b.input >= 0 || b.output >= 0) continue;
    plan_copies(b);
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

}  // namespace fggp
