// Which steps read quantized values, and conversions between floats and int8x4; see execution.h.
#include "plan/execution.h"

namespace fggp {
namespace {

// The sum of this many products of bytes fits 32 bits.
constexpr uint32_t kMaxProducts = INT32_MAX / (255 * 128);
// Offsets into a convolution's input are 16-bit, in vectors; this leaves some room.
constexpr size_t kMaxInt8x4Vectors = 60000;

}  // namespace

// Whether a convolution multiplies int8 weights by int8x4.
bool Execution::multiplies_int8(const Step& s) {
  if (s.op != Op::kConv || s.shape.group > 1 || value(s.input).scale == 0.0f || s.rows->scale.empty())
    return false;
  const std::vector<uint32_t>& begin = s.rows->begin;
  for (size_t o = 0; o + 1 < begin.size(); o++)
    if (begin[o + 1] - begin[o] > kMaxProducts) return false;
  const ValueShape in = value(s.input).shape;
  const Layout out = output_layout(s.shape, in.height, in.width);
  const Layout l = input_layout(s.shape, out, in.height, in.width).with_int8x4(true);
  return static_cast<size_t>(l.planes()) * l.plane_vectors() <= kMaxInt8x4Vectors;
}

bool Execution::reads_int8x4(const Step& s) {
  return multiplies_int8(s) || (s.op == Op::kMaxPool && value(s.input).written_as_int8x4());
}

Layout Execution::input_of(const Step& s, const Layout& out) {
  const ValueShape in = value(s.input).shape;
  return input_layout(window(s), out, in.height, in.width).with_int8x4(reads_int8x4(s));
}

Layout Execution::residual_of(const Step& s, const Layout& out) {
  return out.with_int8x4(multiplies_int8(s) && value(s.residual).written_as_int8x4());
}

// A new buffer with the floats of int8x4, halos included.
int Execution::to_floats(int x, const Layout& from, const Value& v) {
  const int y = new_buffer(from.with_int8x4(false).size(), from.images);
  touch(x);
  add_parts(from.images, from.planes(), kCopyWork * static_cast<double>(from.size()) / from.images,
            [this, x, y, from, scale = v.scale, zero_point = v.zero_point](const Image& c,
                                                                         int first, int last) {
    for (int q = first; q < last; q++)
      fggp_int8x4(isa_).to_floats(
          source(c, x) + static_cast<size_t>(q) * from.plane(), from.plane(), scale, zero_point,
          std::min(4, from.channels - 4 * q),
          address(c, y) + 4 * static_cast<size_t>(q) * from.plane(), from.plane());
  });
  return touch(y);
}

// A new buffer with the int8x4 of floats, halos included; zeros become the value's zero point.
int Execution::to_int8x4(int x, const Layout& floats, const Value& v) {
  const Layout to = floats.with_int8x4(true);
  const int y = new_buffer(to.size(), to.images);
  touch(x);
  add_parts(to.images, to.planes(), kCopyWork * static_cast<double>(floats.size()) / to.images,
            [this, x, y, to, inverse_scale = 1.0f / v.scale, zero_point = v.zero_point](
                const Image& c, int first, int last) {
    for (int q = first; q < last; q++)
      fggp_int8x4(isa_).from_floats(
          source(c, x) + 4 * static_cast<size_t>(q) * to.plane(), to.plane(),
          std::min(4, to.channels - 4 * q), inverse_scale, zero_point, to.plane(),
          address(c, y) + static_cast<size_t>(q) * to.plane());
  });
  return touch(y);
}

// How a float kernel writes a value: it is quantized afterwards, and the halo is filled then.
Layout Execution::floats_of(int i) {
  Layout l = value(i).places.front().layout;
  if (l.int8x4) l.halo = 0;
  return l.with_int8x4(false);
}

// The buffer that a float kernel writes: the value's own, or one that `end_floats` quantizes.
int Execution::begin_floats(int out) {
  const Layout floats = floats_of(out);
  return value(out).scale == 0.0f ? new_own(out) : new_buffer(floats.size(), floats.images);
}

void Execution::end_floats(int out, int x) {
  const Value& v = value(out);
  if (v.scale == 0.0f) return;
  const Layout written = floats_of(out);
  const Layout to = v.places.front().layout;
  touch(x);
  const int y = new_own(out);
  add_parts(to.images, to.planes(), kCopyWork * static_cast<double>(written.size()) / to.images,
            [this, x, y, to, written, inverse_scale = 1.0f / v.scale, halo = Halo(to)](
                const Image& c, int first, int last) {
    for (int q = first; q < last; q++)
      for (int i = 0; i < to.tile_h; i++)
        fggp_int8x4(isa_).from_floats(
            source(c, x) + 4 * static_cast<size_t>(q) * written.plane() + written.at(i, 0),
            written.plane(), std::min(4, to.channels - 4 * q), inverse_scale, 0,
            static_cast<size_t>(to.tile_w) * static_cast<size_t>(to.lanes()),
            address(c, y) + static_cast<size_t>(q) * to.plane() + to.at(i, 0));
    halo.fill(isa_, to, address(c, y), first, last);
  });
}

}  // namespace fggp
