// Shared by the files for AVX2: vectors, sixteen int8x4 without their dot product, and the sizes of
// blocks. A vector of sixteen lanes is two registers here, so blocks are smaller than for AVX-512;
// layouts and weights are the same.
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
  static constexpr bool kByLane = false;
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
  static constexpr bool kByLane = false;
};

}  // namespace

#include "isa/int8x4_x86.inl"

namespace {

struct Int8x4Avx2 : Lanes16 {
  using Words = __m256i;
  static Words load_words(const float* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static void store_words(float* p, Words v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  }
  static Words set1_word(int word) { return _mm256_set1_epi32(word); }
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

}  // namespace

// The compiled blocks: output channels, rows and columns of vectors, entries at a time. A program stores
// the number of a block, so new ones are added at the end.
#define FGGP_BLOCKS(BLOCK, ONE) \
  ONE(1, 4, 8), BLOCK(1, 1, 2, 2), BLOCK(1, 2, 1, 2), BLOCK(1, 1, 4, 1), BLOCK(1, 4, 1, 1), \
  BLOCK(1, 2, 2, 1), BLOCK(1, 1, 7, 1), BLOCK(1, 7, 1, 1), ONE(2, 2, 4), BLOCK(2, 1, 2, 1), \
  BLOCK(2, 2, 1, 1), ONE(4, 1, 2), BLOCK(1, 1, 3, 2), BLOCK(1, 3, 1, 2), BLOCK(1, 1, 5, 1), \
  BLOCK(1, 5, 1, 1), BLOCK(2, 1, 3, 1), BLOCK(2, 3, 1, 1)
