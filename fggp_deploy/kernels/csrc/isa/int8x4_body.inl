// The kernels for quads (isa.h), written once over a vector type, as float_body.inl is for floats.
//
// A `Dots` type is a `Lanes` type that can also: load_quads, store_quads, quad (one word in all
// lanes), dot (the sum of four products a lane: bytes of the first, less what `less` says, by
// signed bytes of the second), byte (channel k of a quad), with_byte (puts it there, where zero
// bits were), whole (floats to the nearest whole numbers between two, ties to even and NaN to the
// lower one, as ONNX Runtime's QuantizeLinear does), to_float, max_bytes and keep_quads.

namespace {

inline int word_of(const float* p) {
  int word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}

// Floats to bytes from 0 to 255.
template <class V>
inline typename V::Quads to_bytes(typename V::Reg v, typename V::Reg units) {
  return V::whole(V::mul(v, units), V::zero(), V::set1(255.0f));
}

// The same, to bytes of which `zero` stands for 0.
template <class V>
inline typename V::Quads to_bytes(typename V::Reg v, typename V::Reg units, int zero) {
  const auto from = static_cast<float>(-zero), to = static_cast<float>(255 - zero);
  return V::add_quads(V::whole(V::mul(v, units), V::set1(from), V::set1(to)), V::quad(zero));
}

template <class V, int G, int BH, int BW, int S, int U>
void dot_tile(const FggpConvTile* args) {
  constexpr int R = V::kRegs, L = V::kRegs * V::kWidth, T = BH * BW * R;
  using Reg = typename V::Reg;
  using Quads = typename V::Quads;
  const FggpConvTile a = *args;
  for (uint32_t block = 0; block < a.n_groups; block++) {
    const uint32_t first = a.begin[block];
    const int n = static_cast<int>(a.begin[block + 1] - first);
    const uint16_t* offset = a.offset + first;
    const float* input = a.x + static_cast<size_t>(a.base[block]) * L;
    const float* weight = a.weight + static_cast<size_t>(first) * G;
    V::prefetch(ahead(weight, static_cast<size_t>(n) * G * 2));
    V::prefetch(ahead(weight, static_cast<size_t>(n) * G * 2 + 16));
    V::prefetch(ahead(offset, static_cast<size_t>(n) * 2));

    Quads acc[U][G][T];
#pragma GCC unroll 8
    for (int g = 0; g < G; g++) {
      const Quads start = V::quad(a.start[block * G + g]);
#pragma GCC unroll 32
      for (int t = 0; t < T; t++) acc[0][g][t] = start;
#pragma GCC unroll 8
      for (int u = 1; u < U; u++)
#pragma GCC unroll 32
        for (int t = 0; t < T; t++) acc[u][g][t] = V::quad(0);
    }
    int i = 0;
    for (; i + U <= n; i += U) {
#pragma GCC unroll 8
      for (int u = 0; u < U; u++) {
        const float* x = input + static_cast<size_t>(offset[i + u]) * L;
#pragma GCC unroll 32
        for (int t = 0; t < T; t++) {
          const int v = t / R, part = t % R;
          const Quads in =
              V::load_quads(x + (v / BW) * a.x_row + (v % BW) * S * L + part * V::kWidth);
#pragma GCC unroll 8
          for (int g = 0; g < G; g++)
            acc[u][g][t] = V::dot(acc[u][g][t], in, V::quad(word_of(weight + (i + u) * G + g)));
        }
      }
    }
    for (; U > 1 && i < n; i++) {
      const float* x = input + static_cast<size_t>(offset[i]) * L;
#pragma GCC unroll 32
      for (int t = 0; t < T; t++) {
        const int v = t / R, part = t % R;
        const Quads in =
            V::load_quads(x + (v / BW) * a.x_row + (v % BW) * S * L + part * V::kWidth);
#pragma GCC unroll 8
        for (int g = 0; g < G; g++)
          acc[0][g][t] = V::dot(acc[0][g][t], in, V::quad(word_of(weight + i * G + g)));
      }
    }
    Quads bytes[T] = {};  // of four channels of a group, until all are there
#pragma GCC unroll 8
    for (int g = 0; g < G; g++) {
      const uint32_t o = block * G + static_cast<uint32_t>(g);
      const int k = G % 4 ? static_cast<int>(o % 4) : g % 4;
      const Reg factor = V::set1(a.factor[o]), bias = V::set1(a.bias[o]);
      Reg sum[T];
#pragma GCC unroll 32
      for (int t = 0; t < T; t++) {
#pragma GCC unroll 8
        for (int u = 1; u < U; u++) acc[0][g][t] = V::add_quads(acc[0][g][t], acc[u][g][t]);
        sum[t] = V::fma(V::to_float(acc[0][g][t]), factor, bias);
      }
      if (a.residual) {
        const bool quads = a.residual_unit != 0;
        const uint32_t plane = quads ? (a.channel + o) / 4 : a.channel + o;
        const float* r = a.residual + static_cast<ptrdiff_t>(plane) * a.residual_channel;
        const Reg unit = V::set1(a.residual_unit);
#pragma GCC unroll 32
        for (int t = 0; t < T; t++) {
          const float* at = r + (t / R / BW) * a.residual_row + (t / R % BW) * L + t % R * V::kWidth;
          sum[t] = quads ? V::fma(V::to_float(V::byte(V::load_quads(at), k)), unit, sum[t])
                         : V::add(sum[t], V::load(at));
        }
      }
      if (a.clamp) {
        const Reg lo = V::set1(a.lo), hi = V::set1(a.hi);
#pragma GCC unroll 32
        for (int t = 0; t < T; t++) sum[t] = clamped<V>(sum[t], lo, hi);
      }
      if (a.mask)
#pragma GCC unroll 32
        for (int t = 0; t < T; t++)
          sum[t] = V::keep(sum[t], static_cast<uint32_t>(
                                       a.mask[(t / R / BW) * a.mask_row + t / R % BW]) >>
                                       (t % R * V::kWidth));
      if (a.units == 0) {
        float* y = a.y + static_cast<ptrdiff_t>(o) * a.y_channel;
#pragma GCC unroll 32
        for (int t = 0; t < T; t++)
          V::store(y + (t / R / BW) * a.y_row + (t / R % BW) * L + t % R * V::kWidth, sum[t]);
        continue;
      }
      // The first channel of a quad clears what lay there, the others add their bytes.
      float* y = a.y + static_cast<ptrdiff_t>(o / 4) * a.y_channel;
      const Reg units = V::set1(a.units);
#pragma GCC unroll 32
      for (int t = 0; t < T; t++) {
        float* at = y + (t / R / BW) * a.y_row + (t / R % BW) * L + t % R * V::kWidth;
        const Quads own = to_bytes<V>(sum[t], units);
        if constexpr (G % 4 == 0) {
          bytes[t] = k ? V::with_byte(bytes[t], own, k) : own;
          if (k == 3) V::store_quads(at, bytes[t]);
        } else {
          V::store_quads(at, k ? V::with_byte(V::load_quads(at), own, k) : own);
        }
      }
    }
  }
}

template <class V>
void pool_quads(const FggpPool* p) {
  constexpr int R = V::kRegs, L = V::kRegs * V::kWidth;
  const int taps = p->kernel_h * p->kernel_w;
  for (int i = 0; i < p->rows; i++)
    for (int j = 0; j < p->cols; j++) {
      const float* x = p->x + i * p->x_row + j * p->x_step;
      const uint16_t* valid = p->valid + static_cast<size_t>(i * p->cols + j) * taps;
      const uint32_t mask = p->mask ? p->mask[i * p->cols + j] : 0xffffu;
      for (int r = 0; r < R; r++) {
        auto acc = V::quad(0);
        for (int a = 0; a < p->kernel_h; a++)
          for (int b = 0; b < p->kernel_w; b++) {
            const uint32_t ok = static_cast<uint32_t>(valid[a * p->kernel_w + b]) >> (r * V::kWidth);
            const auto v = V::load_quads(x + a * p->x_tap_row + b * p->x_tap + r * V::kWidth);
            acc = V::max_bytes(acc, V::keep_quads(v, ok));
          }
        V::store_quads(p->y + i * p->y_row + j * L + r * V::kWidth,
                       V::keep_quads(acc, mask >> (r * V::kWidth)));
      }
    }
}

template <class V>
size_t quads_from_floats(const float* x, size_t plane, int channels, float units, int zero,
                         size_t i, size_t n, float* y) {
  for (; i + V::kWidth <= n; i += V::kWidth) {
    auto quads = V::quad(0);
    for (int k = 0; k < channels; k++) {
      const auto own = V::load(x + static_cast<size_t>(k) * plane + i);
      quads = V::with_byte(quads, to_bytes<V>(own, V::set1(units), zero), k);
    }
    V::store_quads(y + i, quads);
  }
  return i;
}

template <class V>
size_t quads_to_floats(const float* x, size_t i, size_t n, float unit, int zero, int channels,
                       float* y, size_t plane) {
  for (; i + V::kWidth <= n; i += V::kWidth)
    for (int k = 0; k < channels; k++) {
      const auto whole = V::add_quads(V::byte(V::load_quads(x + i), k), V::quad(-zero));
      V::store(y + static_cast<size_t>(k) * plane + i, V::mul(V::to_float(whole), V::set1(unit)));
    }
  return i;
}

template <class Wide, class Narrow>
void from_floats(const float* x, size_t plane, int channels, float units, int zero, size_t n,
                 float* y) {
  const size_t i = quads_from_floats<Wide>(x, plane, channels, units, zero, 0, n, y);
  quads_from_floats<Narrow>(x, plane, channels, units, zero, i, n, y);
}

template <class Wide, class Narrow>
void to_floats(const float* x, size_t n, float unit, int zero, int channels, float* y,
               size_t plane) {
  const size_t i = quads_to_floats<Wide>(x, 0, n, unit, zero, channels, y, plane);
  quads_to_floats<Narrow>(x, i, n, unit, zero, channels, y, plane);
}

}  // namespace

#define FGGP_DOT(g, rows, cols, unroll)                                    \
  {                                                                        \
    g, rows, cols, Dots16::kRegs,                                          \
        {dot_tile<Dots16, g, rows, cols, 1, unroll>,                       \
         dot_tile<Dots16, g, rows, cols, (cols) == 1 ? 1 : 2, unroll>},    \
        nullptr                                                            \
  }
#define FGGP_DOT_ONE(g, unroll, unroll4)                                                      \
  {                                                                                           \
    g, 1, 1, Dots16::kRegs,                                                                   \
        {dot_tile<Dots16, g, 1, 1, 1, unroll>, dot_tile<Dots16, g, 1, 1, 1, unroll>},         \
        dot_tile<Dots4, g, 1, 1, 1, unroll4>                                                  \
  }
