// Compiled with -mavx2 -mfma. A vector of sixteen lanes is two registers here, so blocks are
// smaller; layouts and weights are the same as for AVX-512.
#include "isa/isa.h"

#include <immintrin.h>

namespace {

// All ones in the lanes whose bit is set.
inline __m256 lane_mask(uint32_t m) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_castsi256_ps(
      _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(m)), bit), bit));
}

struct Lanes16 {
  using Reg = __m256;
  static constexpr int kRegs = 2, kWidth = 8;
  static Reg load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Reg v) { _mm256_storeu_ps(p, v); }
  static Reg set1(float v) { return _mm256_set1_ps(v); }
  static Reg zero() { return _mm256_setzero_ps(); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static Reg min(Reg a, Reg b) { return _mm256_min_ps(a, b); }
  static Reg keep(Reg v, uint32_t m) { return _mm256_and_ps(v, lane_mask(m)); }
  static Reg select(Reg a, Reg b, uint32_t m) { return _mm256_blendv_ps(b, a, lane_mask(m)); }
  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
};

struct Lanes4 {
  using Reg = __m128;
  static constexpr int kRegs = 1, kWidth = 4;
  static Reg load(const float* p) { return _mm_loadu_ps(p); }
  static void store(float* p, Reg v) { _mm_storeu_ps(p, v); }
  static Reg set1(float v) { return _mm_set1_ps(v); }
  static Reg zero() { return _mm_setzero_ps(); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm_fmadd_ps(a, b, c); }
  static Reg add(Reg a, Reg b) { return _mm_add_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm_mul_ps(a, b); }
  static Reg max(Reg a, Reg b) { return _mm_max_ps(a, b); }
  static Reg min(Reg a, Reg b) { return _mm_min_ps(a, b); }
  static Reg keep(Reg v, uint32_t m) {
    return _mm_and_ps(v, _mm256_castps256_ps128(lane_mask(m)));
  }
  static Reg select(Reg a, Reg b, uint32_t m) {
    return _mm_blendv_ps(b, a, _mm256_castps256_ps128(lane_mask(m)));
  }
  static void prefetch(const void* p) { Lanes16::prefetch(p); }
};

}  // namespace

#include "isa/float_body.inl"
#include "isa/int8x4_x86.inl"

namespace {

// Without an instruction for it, as two sums of two products each in sixteen bits.
struct Int8x4Lanes16 : Lanes16 {
  using Words = __m256i;
  static Words load_words(const float* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static void store_words(float* p, Words v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  }
  static Words set1_word(int word) { return _mm256_set1_epi32(word); }
  static Words dot(Words acc, Words x, Words w) {
    const Words low = _mm256_set1_epi16(255);
    const Words even = _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), odd = _mm256_srai_epi16(w, 8);
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_and_si256(x, low), even));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_srli_epi16(x, 8), odd));
  }
  static Words add_words(Words a, Words b) { return _mm256_add_epi32(a, b); }
  static Words byte(Words v, int k) {
    return _mm256_and_si256(_mm256_srl_epi32(v, _mm_cvtsi32_si128(8 * k)), set1_word(255));
  }
  static Words with_byte(Words v, Words b, int k) {
    return _mm256_or_si256(v, _mm256_sll_epi32(b, _mm_cvtsi32_si128(8 * k)));
  }
  static Words round(Reg v, Reg from, Reg to) {
    return _mm256_cvtps_epi32(min(max(v, from), to));
  }
  static Reg to_float(Words v) { return _mm256_cvtepi32_ps(v); }
  static Words max_bytes(Words a, Words b) { return _mm256_max_epu8(a, b); }
  static Words keep_words(Words v, uint32_t m) {
    return _mm256_castps_si256(keep(_mm256_castsi256_ps(v), m));
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
inline __m256 permute(__m256 low, __m256 high, __m256i lane, __m256i from_high) {
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, lane),
                          _mm256_permutevar8x32_ps(high, lane), _mm256_castsi256_ps(from_high));
}

void halo16(const FggpHalo* args) {
  const FggpHalo h = *args;  // a copy that no store can alias
  // Channels in the inner loop, so that a permutation is read once for a run of them.
  for (uint32_t c0 = 0; c0 < h.channels; c0 += 16) {
    const uint32_t n = h.channels - c0 < 16 ? h.channels - c0 : 16;
    float* const first = h.y + static_cast<ptrdiff_t>(c0) * h.channel;
    for (uint32_t k = 0; k < h.n; k++) {
      const auto* lanes = reinterpret_cast<const __m256i*>(h.lane + k * 16);
      const __m256i lane0 = _mm256_loadu_si256(lanes), lane1 = _mm256_loadu_si256(lanes + 1);
      const __m256i high0 = _mm256_cmpgt_epi32(lane0, _mm256_set1_epi32(7));
      const __m256i high1 = _mm256_cmpgt_epi32(lane1, _mm256_set1_epi32(7));
      const __m256 keep0 = lane_mask(h.mask[k]), keep1 = lane_mask(h.mask[k] >> 8);
      const float* from = first + h.from[k];
      float* to = first + h.to[k];
      for (uint32_t c = 0; c < n; c++, from += h.channel, to += h.channel) {
        const __m256 low = _mm256_load_ps(from), high = _mm256_load_ps(from + 8);
        _mm256_store_ps(to, _mm256_and_ps(keep0, permute(low, high, lane0, high0)));
        _mm256_store_ps(to + 8, _mm256_and_ps(keep1, permute(low, high, lane1, high1)));
      }
    }
  }
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

// The compiled blocks: output channels, rows and columns of vectors, entries at a time. A program stores
// the number of a block, so new ones are added at the end.
#define FGGP_BLOCKS(BLOCK, ONE) \
  ONE(1, 4, 8), BLOCK(1, 1, 2, 2), BLOCK(1, 2, 1, 2), BLOCK(1, 1, 4, 1), BLOCK(1, 4, 1, 1), \
  BLOCK(1, 2, 2, 1), BLOCK(1, 1, 7, 1), BLOCK(1, 7, 1, 1), ONE(2, 2, 4), BLOCK(2, 1, 2, 1), \
  BLOCK(2, 2, 1, 1), ONE(4, 1, 2), BLOCK(1, 1, 3, 2), BLOCK(1, 3, 1, 2), BLOCK(1, 1, 5, 1), \
  BLOCK(1, 5, 1, 1), BLOCK(2, 1, 3, 1), BLOCK(2, 3, 1, 1)

const FggpConvVariant kConv[] = {FGGP_BLOCKS(FGGP_CONV, FGGP_CONV_ONE)};
const FggpConvVariant kInt8x4Conv[] = {FGGP_BLOCKS(FGGP_INT8X4, FGGP_INT8X4_ONE)};

const FggpInt8x4* const kInt8x4[] = {&fggp_int8x4_avx2, nullptr};

}  // namespace

extern "C" const FggpIsa fggp_avx2 = {
    "avx2", supported, kInt8x4, kConv, sizeof(kConv) / sizeof(kConv[0]), pool<Lanes16>, pool<Lanes4>,
    depthwise<Lanes16>, depthwise<Lanes4>, halo16, halo_by_lane<4>, pack_by_element,
    gather_by_element, shuffle, 8, sum<Lanes16>, sum<Lanes4>, dot, dense<Lanes16, 6, 1>, 16,
};

extern "C" const FggpInt8x4 fggp_int8x4_avx2 = {
    "avx2", supported, 0, kInt8x4Conv, sizeof(kInt8x4Conv) / sizeof(kInt8x4Conv[0]),
    pool_int8x4<Int8x4Lanes16>, pool_int8x4<Int8x4Lanes4>, from_floats<Int8x4Lanes16, Int8x4Lanes4>,
    to_floats<Int8x4Lanes16, Int8x4Lanes4>,
};
