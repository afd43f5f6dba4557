// Which steps work on bytes, and the way from floats to quads of them and back; see execution.h.
#include "plan/execution.h"

namespace fggp {
namespace {

// Of so many products of bytes the sum fits 32 bits.
constexpr uint32_t kMaxProducts = INT32_MAX / (255 * 128);
// All quads of a convolution's input must lie within sixteen bits, in vectors; some room is left.
constexpr size_t kMaxQuads = 60000;

}  // namespace

// Whether a convolution multiplies bytes.
bool Execution::in_bytes(const Step& s) {
  if (s.op != Op::kConv || s.shape.group > 1 || value(s.input).unit == 0.0f || s.rows->unit.empty())
    return false;
  const std::vector<uint32_t>& begin = s.rows->begin;
  for (size_t o = 0; o + 1 < begin.size(); o++)
    if (begin[o + 1] - begin[o] > kMaxProducts) return false;
  const ValueShape in = value(s.input).shape;
  const Layout out = output_layout(s.shape, in.height, in.width);
  const Layout l = input_layout(s.shape, out, in.height, in.width).with_quads(true);
  return static_cast<size_t>(l.planes()) * l.plane_vectors() <= kMaxQuads;
}

bool Execution::reads_quads(const Step& s) {
  return in_bytes(s) || (s.op == Op::kMaxPool && value(s.input).plain_bytes());
}

Layout Execution::input_of(const Step& s, const Layout& out) {
  const ValueShape in = value(s.input).shape;
  return input_layout(window(s), out, in.height, in.width).with_quads(reads_quads(s));
}

Layout Execution::residual_of(const Step& s, const Layout& out) {
  return out.with_quads(in_bytes(s) && value(s.residual).plain_bytes());
}

// A buffer with the floats of quads, halos included.
int Execution::to_floats(int x, const Layout& quads, const Value& v) {
  const int y = new_buffer(quads.with_quads(false).size());
  touch(x);
  add_parts(quads.planes(), kCopyWork * static_cast<double>(quads.size()),
            [this, x, y, quads, unit = v.unit, zero = v.zero](const Context& c, int first, int last) {
    for (int q = first; q < last; q++)
      fggp_dots(isa_).to_floats(
          source(c, x) + static_cast<size_t>(q) * quads.plane(), quads.plane(), unit, zero,
          std::min(4, quads.channels - 4 * q),
          address(c, y) + 4 * static_cast<size_t>(q) * quads.plane(), quads.plane());
  });
  return touch(y);
}

// A buffer with the quads of floats, halos included, whose zeros become the value's zero point.
int Execution::to_quads(int x, const Layout& floats, const Value& v) {
  const Layout quads = floats.with_quads(true);
  const int y = new_buffer(quads.size());
  touch(x);
  add_parts(quads.planes(), kCopyWork * static_cast<double>(floats.size()),
            [this, x, y, quads, units = 1.0f / v.unit, zero = v.zero](const Context& c, int first,
                                                                      int last) {
    for (int q = first; q < last; q++)
      fggp_dots(isa_).from_floats(
          source(c, x) + 4 * static_cast<size_t>(q) * quads.plane(), quads.plane(),
          std::min(4, quads.channels - 4 * q), units, zero, quads.plane(),
          address(c, y) + static_cast<size_t>(q) * quads.plane());
  });
  return touch(y);
}

// As a step of floats writes a value: bytes come of it in a second step, which knows the halo.
Layout Execution::floats_of(int i) {
  Layout l = value(i).places.front().layout;
  if (l.quads) l.halo = 0;
  return l.with_quads(false);
}

// The buffer that a step of floats writes: its own, or one whose floats `end_floats` makes bytes.
int Execution::begin_floats(int out) {
  return value(out).unit == 0.0f ? new_own(out) : new_buffer(floats_of(out).size());
}

void Execution::end_floats(int out, int x) {
  const Value& v = value(out);
  if (v.unit == 0.0f) return;
  const Layout written = floats_of(out);
  const Layout to = v.places.front().layout;
  touch(x);
  const int y = new_own(out);
  add_parts(to.planes(), kCopyWork * static_cast<double>(written.size()),
            [this, x, y, to, written, units = 1.0f / v.unit, halo = Halo(to)](
                const Context& c, int first, int last) {
    for (int q = first; q < last; q++)
      for (int i = 0; i < to.tile_h; i++)
        fggp_dots(isa_).from_floats(
            source(c, x) + 4 * static_cast<size_t>(q) * written.plane() + written.at(i, 0),
            written.plane(), std::min(4, to.channels - 4 * q), units, 0,
            static_cast<size_t>(to.tile_w) * static_cast<size_t>(to.lanes()),
            address(c, y) + static_cast<size_t>(q) * to.plane() + to.at(i, 0));
    halo.fill(isa_, to, address(c, y), first, last);
  });
}

}  // namespace fggp
