// Compiled with -mavx2 -mfma.
#include "isa/avx2.inl"
#include "isa/float_body.inl"

namespace {

// AVX2 has no instruction for this: two sums of two products each, in sixteen bits.
struct Int8x4Lanes16 : Int8x4Avx2 {
  static Words dot(Words acc, Words x, Words w) {
    const Words low = _mm256_set1_epi16(255);
    const Words even = _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), odd = _mm256_srai_epi16(w, 8);
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_and_si256(x, low), even));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_srli_epi16(x, 8), odd));
  }
};

struct Int8x4Lanes4 : Int8x4X86 {
  static Words dot(Words acc, Words x, Words w) {
    const Words low = _mm_set1_epi16(255);
    const Words even = _mm_srai_epi16(_mm_slli_epi16(w, 8), 8), odd = _mm_srai_epi16(w, 8);
    acc = _mm_add_epi32(acc, _mm_madd_epi16(_mm_and_si128(x, low), even));
    return _mm_add_epi32(acc, _mm_madd_epi16(_mm_srli_epi16(x, 8), odd));
  }
};

}  // namespace

#include "isa/int8x4_body.inl"

namespace {

float dot(const float* weight, const uint32_t* column, size_t n, const float* x) {
  if (!column) return dot_dense<Lanes16>(weight, n, x);
  __m256 acc = _mm256_setzero_ps();
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256i at = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(column + i));
    acc = _mm256_fmadd_ps(_mm256_loadu_ps(weight + i), _mm256_i32gather_ps(x, at, 4), acc);
  }
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, acc);
  float total = dot_by_element(weight + i, column + i, n - i, x);
  for (float lane : lanes) total += lane;
  return total;
}

// Any eight of sixteen lanes.
inline __m256 permute(__m256 low, __m256 high, __m256i lane, __m256 from_high) {
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, lane),
                          _mm256_permutevar8x32_ps(high, lane), from_high);
}

struct Permutation16 {
  static constexpr int kLanes = 16;
  __m256i lane0, lane1;
  __m256 high0, high1, keep0, keep1;
  Permutation16(const int32_t* lane, uint32_t mask)
      : lane0(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(lane))),
        lane1(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(lane + 8))),
        high0(from_high(lane0)), high1(from_high(lane1)),
        keep0(lane_mask(mask)), keep1(lane_mask(mask >> 8)) {}
  void operator()(const float* from, float* to) const {
    const __m256 low = _mm256_load_ps(from), high = _mm256_load_ps(from + 8);
    _mm256_store_ps(to, _mm256_and_ps(keep0, permute(low, high, lane0, high0)));
    _mm256_store_ps(to + 8, _mm256_and_ps(keep1, permute(low, high, lane1, high1)));
  }
  static __m256 from_high(__m256i lane) {
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(lane, _mm256_set1_epi32(7)));
  }
};

struct Permutation4 {
  static constexpr int kLanes = 4;
  __m128i lane;
  __m128 keep;
  Permutation4(const int32_t* l, uint32_t mask)
      : lane(_mm_loadu_si128(reinterpret_cast<const __m128i*>(l))),
        keep(_mm256_castps256_ps128(lane_mask(mask))) {}
  void operator()(const float* from, float* to) const {
    _mm_store_ps(to, _mm_and_ps(keep, _mm_permutevar_ps(_mm_load_ps(from), lane)));
  }
};

// Transposes eight rows of eight floats.
inline void transpose(__m256 r[8]) {
  __m256 t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {  // pairs of rows
    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++)  // fours: r[4 i + c] holds column c of each half
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
      r[4 * i + 2 * h] = _mm256_shuffle_ps(t[4 * i + h], t[4 * i + 2 + h], 0x44);
      r[4 * i + 2 * h + 1] = _mm256_shuffle_ps(t[4 * i + h], t[4 * i + 2 + h], 0xee);
    }
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {
    t[c] = _mm256_permute2f128_ps(r[c], r[4 + c], 0x20);
    t[4 + c] = _mm256_permute2f128_ps(r[c], r[4 + c], 0x31);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) r[i] = t[i];
}

// Ones in the bits below n.
inline uint32_t bits_below(int n) { return n <= 0 ? 0u : n >= 8 ? 0xffu : (1u << n) - 1u; }

void pack(const FggpPack* p) {
  if (p->lanes != 16) return pack_by_element(p);
  for (int l = 0; l < 16; l += 8)
    for (int j = 0; j < p->n; j += 8) {
      __m256 r[8];
#pragma GCC unroll 8
      for (int k = 0; k < 8; k++) {
        const int first = p->first[l + k] - j, last = p->last[l + k] - j;
        const float* x = p->x[l + k] - first;
        r[k] = first <= 0 && last >= 8
                   ? _mm256_loadu_ps(x)
                   : _mm256_maskload_ps(x, _mm256_castps_si256(lane_mask(bits_below(last) &
                                                                         ~bits_below(first))));
      }
      transpose(r);
      const int n = p->n - j < 8 ? p->n - j : 8;
      for (int i = 0; i < n; i++) _mm256_store_ps(p->y + (j + i) * 16 + l, r[i]);
    }
}

void transpose(const FggpTranspose* t) {
  const size_t rows = t->rows / 8 * 8, cols = t->cols / 8 * 8;
  for (size_t r0 = 0; r0 < rows; r0 += 8)
    for (size_t c0 = 0; c0 < cols; c0 += 8) {
      __m256 r[8];
#pragma GCC unroll 8
      for (size_t i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(t->x + (r0 + i) * t->x_row + c0);
      transpose(r);
#pragma GCC unroll 8
      for (size_t i = 0; i < 8; i++) _mm256_storeu_ps(t->y + (c0 + i) * t->y_row + r0, r[i]);
    }
  transpose_edges(*t, rows, cols);
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
      __m256 a0 = _mm256_setzero_ps(), a1 = a0;
      for (uint32_t t = s.begin[v]; t < s.begin[v + 1]; t++) {
        const __m256i lane =
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(s.lane + size_t{t} * 8));
        const __m256 none = _mm256_castsi256_ps(lane);  // a negative lane selects none
        const __m256 v0 = _mm256_loadu_ps(x0 + s.from[t]), v1 = _mm256_loadu_ps(x1 + s.from[t]);
        a0 = _mm256_blendv_ps(_mm256_permutevar8x32_ps(v0, lane), a0, none);
        a1 = _mm256_blendv_ps(_mm256_permutevar8x32_ps(v1, lane), a1, none);
      }
      _mm256_storeu_ps(y0 + v * 8, a0);
      _mm256_storeu_ps(y1 + v * 8, a1);
    }
  }
}

int supported() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

const FggpConvVariant kConv[] = {FGGP_BLOCKS(FGGP_CONV, FGGP_CONV_ONE)};
const FggpConvVariant kInt8x4Conv[] = {FGGP_BLOCKS(FGGP_INT8X4, FGGP_INT8X4_ONE)};

const FggpInt8x4* const kInt8x4[] = {&fggp_int8x4_avx2, nullptr};

constexpr FggpIsa isa(const char* name, int (*is_supported)(), const FggpInt8x4* const* int8x4) {
  return {name, is_supported, int8x4, kConv, sizeof(kConv) / sizeof(kConv[0]), pool<Lanes16>,
          pool<Lanes4>, depthwise<Lanes16>, depthwise<Lanes4>, halo<Permutation16>, halo<Permutation4>,
          pack, transpose, gather_by_element, shuffle, 8, sum<Lanes16>, sum<Lanes4>, finite<Lanes16>, dot,
          dense<Lanes16, 6, 1>, 16};
}

#ifdef FGGP_AVX_VNNI
const FggpInt8x4* const kWithVnni[] = {&fggp_int8x4_avx_vnni, nullptr};

int supported_with_vnni() { return fggp_int8x4_avx_vnni.supported(); }
#endif

}  // namespace

extern "C" const FggpIsa fggp_avx2 = isa("avx2", supported, kInt8x4);
#ifdef FGGP_AVX_VNNI
// The same for floats.
extern "C" const FggpIsa fggp_avx_vnni = isa("avx_vnni", supported_with_vnni, kWithVnni);
#endif

extern "C" const FggpInt8x4 fggp_int8x4_avx2 = {
    "avx2", supported, 0, kInt8x4Conv, sizeof(kInt8x4Conv) / sizeof(kInt8x4Conv[0]),
    pool_int8x4<Int8x4Lanes16>, pool_int8x4<Int8x4Lanes4>, from_floats<Int8x4Lanes16, Int8x4Lanes4>,
    to_floats<Int8x4Lanes16, Int8x4Lanes4>,
};
