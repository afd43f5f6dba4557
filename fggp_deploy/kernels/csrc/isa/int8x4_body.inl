// The kernels for int8x4 (isa.h), written once over a vector type, as float_body.inl is for floats.
//
// An `Int8x4Lanes` type is a `Lanes` type with a second kind of register, Words: 32-bit integers, each
// either one number or an int8x4. It can also do these:
//   load_words, store_words, set1_word, add_words; keep_words: zeros in the lanes that a mask lacks
//   dot: the sum of four products per lane, of the bytes of one word, less the table's `offset`, and
//     the signed bytes of another
//   byte: channel k of an int8x4; with_byte: puts it there, if those bits are zero
//   max_bytes: the larger byte of each pair
//   to_float; round: floats to the nearest integers between two limits, with ties to even and NaN to
//     the lower limit, as ONNX Runtime's QuantizeLinear does

namespace {

inline int word_of(const float* p) {
  int word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}

// Quantizes floats, with zero point 0.
template <class V>
inline typename V::Words to_bytes(typename V::Reg v, typename V::Reg inverse_scale) {
  return V::round(V::mul(v, inverse_scale), V::zero(), V::set1(255.0f));
}

// Quantizes floats, with any zero point.
template <class V>
inline typename V::Words to_bytes(typename V::Reg v, typename V::Reg inverse_scale,
                                  int zero_point) {
  const auto from = static_cast<float>(-zero_point), to = static_cast<float>(255 - zero_point);
  return V::add_words(V::round(V::mul(v, inverse_scale), V::set1(from), V::set1(to)), V::set1_word(zero_point));
}

template <class V, int G, int BH, int BW, int S, int U>
void int8x4_tile(const FggpConvTile* args) {
  constexpr int R = V::kRegs, L = V::kRegs * V::kWidth, T = BH * BW * R;
  using Reg = typename V::Reg;
  using Words = typename V::Words;
  const FggpConvTile a = *args;
  for (uint32_t block = 0; block < a.n_groups; block++) {
    const uint32_t first = a.begin[block];
    const int n = static_cast<int>(a.begin[block + 1] - first);
    const uint16_t* offset = a.offset + first;
    const float* input = a.x + static_cast<size_t>(a.base[block]) * L;
    const float* weight = a.weight + static_cast<size_t>(first) * G;
    V::prefetch(address_after(weight, static_cast<size_t>(n) * G * 2));
    V::prefetch(address_after(weight, static_cast<size_t>(n) * G * 2 + 16));
    V::prefetch(address_after(offset, static_cast<size_t>(n) * 2));

    Words acc[U][G][T];
#pragma GCC unroll 8
    for (int g = 0; g < G; g++) {
      const Words start = V::set1_word(a.start[block * G + g]);
#pragma GCC unroll 32
      for (int t = 0; t < T; t++) acc[0][g][t] = start;
#pragma GCC unroll 8
      for (int u = 1; u < U; u++)
#pragma GCC unroll 32
        for (int t = 0; t < T; t++) acc[u][g][t] = V::set1_word(0);
    }
    int i = 0;
    if constexpr (V::kByLane && T == R && G < 4) i = V::template multiply_by_lane<V>(offset, weight, input, n, acc);
    for (; i + U <= n; i += U) {
#pragma GCC unroll 8
      for (int u = 0; u < U; u++) {
        const float* x = input + static_cast<size_t>(offset[i + u]) * L;
#pragma GCC unroll 32
        for (int t = 0; t < T; t++) {
          const int v = t / R, part = t % R;
          const Words in =
              V::load_words(x + (v / BW) * a.x_row + (v % BW) * S * L + part * V::kWidth);
#pragma GCC unroll 8
          for (int g = 0; g < G; g++)
            acc[u][g][t] = V::dot(acc[u][g][t], in, V::set1_word(word_of(weight + (i + u) * G + g)));
        }
      }
    }
    for (; U > 1 && i < n; i++) {
      const float* x = input + static_cast<size_t>(offset[i]) * L;
#pragma GCC unroll 32
      for (int t = 0; t < T; t++) {
        const int v = t / R, part = t % R;
        const Words in =
            V::load_words(x + (v / BW) * a.x_row + (v % BW) * S * L + part * V::kWidth);
#pragma GCC unroll 8
        for (int g = 0; g < G; g++)
          acc[0][g][t] = V::dot(acc[0][g][t], in, V::set1_word(word_of(weight + i * G + g)));
      }
    }
    Words bytes[T] = {};  // collects four channels of a group
#pragma GCC unroll 8
    for (int g = 0; g < G; g++) {
      const uint32_t o = block * G + static_cast<uint32_t>(g);
      const int k = G % 4 ? static_cast<int>(o % 4) : g % 4;
      const Reg factor = V::set1(a.factor[o]), bias = V::set1(a.bias[o]);
      Reg sum[T];
#pragma GCC unroll 32
      for (int t = 0; t < T; t++) {
#pragma GCC unroll 8
        for (int u = 1; u < U; u++) acc[0][g][t] = V::add_words(acc[0][g][t], acc[u][g][t]);
        sum[t] = V::fma(V::to_float(acc[0][g][t]), factor, bias);
      }
      if (a.residual) {
        const bool int8x4 = a.residual_scale != 0;
        const uint32_t plane = int8x4 ? (a.channel + o) / 4 : a.channel + o;
        const float* r = a.residual + static_cast<ptrdiff_t>(plane) * a.residual_channel;
        const Reg scale = V::set1(a.residual_scale);
#pragma GCC unroll 32
        for (int t = 0; t < T; t++) {
          const float* at = r + (t / R / BW) * a.residual_row + (t / R % BW) * L + t % R * V::kWidth;
          sum[t] = int8x4 ? V::fma(V::to_float(V::byte(V::load_words(at), k)), scale, sum[t])
                         : V::add(sum[t], V::load(at));
        }
      }
      activate<V>(a.activation, sum);
      if (a.mask)
#pragma GCC unroll 32
        for (int t = 0; t < T; t++)
          sum[t] = V::keep(sum[t], static_cast<uint32_t>(
                                       a.mask[(t / R / BW) * a.mask_row + t / R % BW]) >>
                                       (t % R * V::kWidth));
      if (a.inverse_scale == 0) {
        float* y = a.y + static_cast<ptrdiff_t>(o) * a.y_channel;
#pragma GCC unroll 32
        for (int t = 0; t < T; t++)
          V::store(y + (t / R / BW) * a.y_row + (t / R % BW) * L + t % R * V::kWidth, sum[t]);
        continue;
      }
      // The first channel of an int8x4 overwrites what was there, the others add their bytes.
      float* y = a.y + static_cast<ptrdiff_t>(o / 4) * a.y_channel;
      const Reg inverse_scale = V::set1(a.inverse_scale);
#pragma GCC unroll 32
      for (int t = 0; t < T; t++) {
        float* at = y + (t / R / BW) * a.y_row + (t / R % BW) * L + t % R * V::kWidth;
        const Words own = to_bytes<V>(sum[t], inverse_scale);
        if constexpr (G % 4 == 0) {
          bytes[t] = k ? V::with_byte(bytes[t], own, k) : own;
          if (k == 3) V::store_words(at, bytes[t]);
        } else {
          V::store_words(at, k ? V::with_byte(V::load_words(at), own, k) : own);
        }
      }
    }
  }
}

template <class V>
void pool_int8x4(const FggpPool* p) {
  constexpr int R = V::kRegs, L = V::kRegs * V::kWidth;
  const int taps = p->kernel_h * p->kernel_w;
  for (int i = 0; i < p->rows; i++)
    for (int j = 0; j < p->cols; j++) {
      const float* x = p->x + i * p->x_row + j * p->x_step;
      const uint16_t* valid = p->valid + static_cast<size_t>(i * p->cols + j) * taps;
      const uint32_t mask = p->mask ? p->mask[i * p->cols + j] : 0xffffu;
      for (int r = 0; r < R; r++) {
        auto acc = V::set1_word(0);
        for (int a = 0; a < p->kernel_h; a++)
          for (int b = 0; b < p->kernel_w; b++) {
            const uint32_t ok = static_cast<uint32_t>(valid[a * p->kernel_w + b]) >> (r * V::kWidth);
            const auto v = V::load_words(x + a * p->x_tap_row + b * p->x_tap + r * V::kWidth);
            acc = V::max_bytes(acc, V::keep_words(v, ok));
          }
        V::store_words(p->y + i * p->y_row + j * L + r * V::kWidth,
                       V::keep_words(acc, mask >> (r * V::kWidth)));
      }
    }
}

template <class V>
size_t int8x4_from_floats(const float* x, size_t plane, int channels, float inverse_scale, int zero_point,
                         size_t i, size_t n, float* y) {
  for (; i + V::kWidth <= n; i += V::kWidth) {
    auto bytes = V::set1_word(0);
    for (int k = 0; k < channels; k++) {
      const auto own = V::load(x + static_cast<size_t>(k) * plane + i);
      bytes = V::with_byte(bytes, to_bytes<V>(own, V::set1(inverse_scale), zero_point), k);
    }
    V::store_words(y + i, bytes);
  }
  return i;
}

template <class V>
size_t int8x4_to_floats(const float* x, size_t i, size_t n, float scale, int zero_point, int channels,
                       float* y, size_t plane) {
  for (; i + V::kWidth <= n; i += V::kWidth)
    for (int k = 0; k < channels; k++) {
      const auto shifted = V::add_words(V::byte(V::load_words(x + i), k), V::set1_word(-zero_point));
      V::store(y + static_cast<size_t>(k) * plane + i, V::mul(V::to_float(shifted), V::set1(scale)));
    }
  return i;
}

template <class Wide, class Narrow>
void from_floats(const float* x, size_t plane, int channels, float inverse_scale, int zero_point, size_t n,
                 float* y) {
  const size_t i = int8x4_from_floats<Wide>(x, plane, channels, inverse_scale, zero_point, 0, n, y);
  int8x4_from_floats<Narrow>(x, plane, channels, inverse_scale, zero_point, i, n, y);
}

template <class Wide, class Narrow>
void to_floats(const float* x, size_t n, float scale, int zero_point, int channels, float* y,
               size_t plane) {
  const size_t i = int8x4_to_floats<Wide>(x, 0, n, scale, zero_point, channels, y, plane);
  int8x4_to_floats<Narrow>(x, i, n, scale, zero_point, channels, y, plane);
}

}  // namespace

#define FGGP_INT8X4(g, rows, cols, unroll)                                     \
  {                                                                            \
    g, rows, cols, Int8x4Lanes16::kRegs,                                       \
        {int8x4_tile<Int8x4Lanes16, g, rows, cols, 1, unroll>,                 \
         int8x4_tile<Int8x4Lanes16, g, rows, cols, (cols) == 1 ? 1 : 2, unroll>}, \
        nullptr, nullptr                                                       \
  }
#define FGGP_INT8X4_ONE(g, unroll, unroll4)                     \
  {                                                             \
    g, 1, 1, Int8x4Lanes16::kRegs,                              \
        {int8x4_tile<Int8x4Lanes16, g, 1, 1, 1, unroll>,        \
         int8x4_tile<Int8x4Lanes16, g, 1, 1, 1, unroll>},       \
        int8x4_tile<Int8x4Lanes4, g, 1, 1, 1, unroll4>,         \
        int8x4_tile<Int8x4Lanes16, g, 1, 1, 1, unroll>          \
  }
