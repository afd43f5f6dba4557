// Compiled with -mavx512f -mavx512vl -mavx512bw -mavx512dq -mavx2 -mfma. See float_body.inl for why
// this file uses nothing but intrinsics.
#include "isa/avx512.inl"
#include "isa/float_body.inl"

namespace {

struct Permutation16 {
  static constexpr int kLanes = 16;
  __m512i lane;
  __mmask16 mask;
  Permutation16(const int32_t* l, uint32_t m)
      : lane(_mm512_loadu_si512(l)), mask(static_cast<__mmask16>(m)) {}
  void operator()(const float* from, float* to) const {
    _mm512_store_ps(to, _mm512_maskz_permutexvar_ps(mask, lane, _mm512_load_ps(from)));
  }
};

struct Permutation4 {
  static constexpr int kLanes = 4;
  __m128i lane;
  __mmask8 mask;
  Permutation4(const int32_t* l, uint32_t m)
      : lane(_mm_loadu_si128(reinterpret_cast<const __m128i*>(l))), mask(static_cast<__mmask8>(m)) {}
  void operator()(const float* from, float* to) const {
    _mm_store_ps(to, _mm_maskz_permutevar_ps(mask, _mm_load_ps(from), lane));
  }
};

// Transposes sixteen rows of sixteen floats.
inline void transpose(__m512 r[16]) {
  __m512 t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {  // pairs of rows
    t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)  // fours: r[4 i + c] holds column c of each quarter
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
      const __m512d a = _mm512_castps_pd(t[4 * i + h]), b = _mm512_castps_pd(t[4 * i + 2 + h]);
      r[4 * i + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      r[4 * i + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {  // quarters: a 4x4 transpose of 128-bit blocks
    const __m512 lo01 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x44);
    const __m512 hi01 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xee);
    const __m512 lo23 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x44);
    const __m512 hi23 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xee);
    t[c] = _mm512_shuffle_f32x4(lo01, lo23, 0x88);
    t[4 + c] = _mm512_shuffle_f32x4(lo01, lo23, 0xdd);
    t[8 + c] = _mm512_shuffle_f32x4(hi01, hi23, 0x88);
    t[12 + c] = _mm512_shuffle_f32x4(hi01, hi23, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) r[i] = t[i];
}

// Ones in the bits below n.
inline uint32_t bits_below(int n) { return n <= 0 ? 0u : n >= 16 ? 0xffffu : (1u << n) - 1u; }

void pack(const FggpPack* p) {
  if (p->lanes != 16) return pack_by_element(p);
  for (int j = 0; j < p->n; j += 16) {
    __m512 r[16];
#pragma GCC unroll 16
    for (int l = 0; l < 16; l++) {
      const auto mask = static_cast<__mmask16>(bits_below(p->last[l] - j) &
                                               ~bits_below(p->first[l] - j));
      r[l] = _mm512_maskz_loadu_ps(mask, p->x[l] + (j - p->first[l]));
    }
    transpose(r);
    const int n = p->n - j < 16 ? p->n - j : 16;
    for (int i = 0; i < n; i++) _mm512_store_ps(p->y + (j + i) * 16, r[i]);
  }
}

void transpose(const FggpTranspose* t) {
  for (size_t r0 = 0; r0 < t->rows; r0 += 16)
    for (size_t c0 = 0; c0 < t->cols; c0 += 16) {
      const int rows = t->rows - r0 < 16 ? static_cast<int>(t->rows - r0) : 16;
      const int cols = t->cols - c0 < 16 ? static_cast<int>(t->cols - c0) : 16;
      const auto read = static_cast<__mmask16>(bits_below(cols));
      const auto written = static_cast<__mmask16>(bits_below(rows));
      const float* x = t->x + r0 * t->x_row + c0;
      __m512 r[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        r[i] = i < rows ? _mm512_maskz_loadu_ps(read, x) : _mm512_setzero_ps();
        if (i + 1 < rows) x += t->x_row;
      }
      transpose(r);
      float* y = t->y + c0 * t->y_row + r0;
      for (int i = 0; i < cols; i++, y += t->y_row) _mm512_mask_storeu_ps(y, written, r[i]);
    }
}

void gather(const int32_t* index, size_t n, const float* x, float* y) {
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m512i at = _mm512_loadu_si512(index + i);
    const __mmask16 mask = _mm512_cmpge_epi32_mask(at, _mm512_setzero_si512());
    _mm512_storeu_ps(y + i, _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, at, x, 4));
  }
  gather_by_element(index + i, n - i, x, y + i);
}

// Two channels at a time, so that a permutation is read once for both.
void shuffle(const FggpShuffle* args) {
  const FggpShuffle s = *args;  // a copy that no store can alias
  for (size_t c = 0; c < s.channels; c += 2) {
    const bool both = c + 1 < s.channels;
    const float* x0 = s.x + c * s.x_plane;
    const float* x1 = both ? x0 + s.x_plane : x0;
    float* y0 = s.y + c * s.y_plane;
    float* y1 = both ? y0 + s.y_plane : y0;
    for (size_t v = 0; v < s.n; v++) {
      __m512 a0 = _mm512_setzero_ps(), a1 = a0;
      for (uint32_t t = s.begin[v]; t < s.begin[v + 1]; t++) {
        const __m512i lane = _mm512_loadu_si512(s.lane + size_t{t} * 16);
        const __mmask16 mask = _mm512_cmpge_epi32_mask(lane, _mm512_setzero_si512());
        a0 = _mm512_mask_permutexvar_ps(a0, mask, lane, _mm512_loadu_ps(x0 + s.from[t]));
        a1 = _mm512_mask_permutexvar_ps(a1, mask, lane, _mm512_loadu_ps(x1 + s.from[t]));
      }
      _mm512_storeu_ps(y0 + v * 16, a0);
      _mm512_storeu_ps(y1 + v * 16, a1);
    }
  }
}

float dot(const float* weight, const uint32_t* column, size_t n, const float* x) {
  if (!column) return dot_dense<Lanes16>(weight, n, x);
  __m512 acc = _mm512_setzero_ps();
  size_t i = 0;
  for (; i + 16 <= n; i += 16)
    acc = _mm512_fmadd_ps(_mm512_loadu_ps(weight + i),
                          _mm512_i32gather_ps(_mm512_loadu_si512(column + i), x, 4), acc);
  return _mm512_reduce_add_ps(acc) + dot_by_element(weight + i, column + i, n - i, x);
}

int supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("fma");
}

const FggpConvVariant kConv[] = {FGGP_BLOCKS(FGGP_CONV, FGGP_CONV_ONE)};

const FggpInt8x4* const kInt8x4[] = {&fggp_int8x4_vnni, &fggp_int8x4_avx2, nullptr};

}  // namespace

extern "C" const FggpIsa fggp_avx512 = {
    "avx512", supported, kInt8x4, kConv, sizeof(kConv) / sizeof(kConv[0]), pool<Lanes16>, pool<Lanes4>,
    depthwise<Lanes16>, depthwise<Lanes4>, halo<Permutation16>, halo<Permutation4>, pack, transpose,
    gather, shuffle, 16, sum<Lanes16>, sum<Lanes4>, finite<Lanes16>, dot, dense<Lanes16, 14, 2>, 32,
};
