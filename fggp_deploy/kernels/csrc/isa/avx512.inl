// Shared by the files for AVX-512: vectors and the sizes of blocks.
#include "isa/isa.h"

#include <immintrin.h>

namespace {

struct Lanes16 {
  using Reg = __m512;
  static constexpr int kRegs = 1, kWidth = 16;
  static Reg load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Reg v) { _mm512_storeu_ps(p, v); }
  static Reg set1(float v) { return _mm512_set1_ps(v); }
  static Reg zero() { return _mm512_setzero_ps(); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
  static Reg min(Reg a, Reg b) { return _mm512_min_ps(a, b); }
  static Reg keep(Reg v, uint32_t m) {
    return _mm512_maskz_mov_ps(static_cast<__mmask16>(m), v);
  }
  static Reg select(Reg a, Reg b, uint32_t m) {
    return _mm512_mask_blend_ps(static_cast<__mmask16>(m), b, a);
  }
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
  static Reg keep(Reg v, uint32_t m) { return _mm_maskz_mov_ps(static_cast<__mmask8>(m & 15), v); }
  static Reg select(Reg a, Reg b, uint32_t m) {
    return _mm_mask_blend_ps(static_cast<__mmask8>(m & 15), b, a);
  }
  static void prefetch(const void* p) { Lanes16::prefetch(p); }
  static constexpr bool kByLane = false;
};

}  // namespace

// The compiled blocks: output channels, rows and columns of vectors, entries at a time. A program stores
// the number of a block, so new ones are added at the end.
#define FGGP_BLOCKS(BLOCK, ONE) \
  ONE(1, 8, 8), BLOCK(1, 1, 2, 4), BLOCK(1, 2, 1, 4), BLOCK(1, 2, 2, 3), BLOCK(1, 1, 4, 3), \
  BLOCK(1, 4, 1, 3), BLOCK(1, 1, 7, 2), BLOCK(1, 7, 1, 2), BLOCK(1, 1, 8, 2), \
  BLOCK(1, 2, 4, 2), BLOCK(1, 4, 2, 2), BLOCK(1, 4, 4, 1), BLOCK(1, 2, 7, 1), \
  BLOCK(1, 7, 2, 1), BLOCK(1, 2, 8, 1), BLOCK(1, 1, 14, 1), BLOCK(1, 2, 14, 1), \
  BLOCK(1, 7, 4, 1), BLOCK(1, 4, 7, 1), ONE(2, 4, 4), BLOCK(2, 1, 2, 3), BLOCK(2, 2, 1, 3), \
  BLOCK(2, 2, 2, 2), BLOCK(2, 1, 4, 2), BLOCK(2, 1, 7, 1), BLOCK(2, 7, 1, 1), \
  BLOCK(2, 1, 8, 1), BLOCK(2, 2, 4, 1), BLOCK(2, 4, 2, 1), BLOCK(2, 1, 14, 1), \
  BLOCK(2, 2, 7, 1), BLOCK(2, 7, 2, 1), ONE(4, 4, 4), BLOCK(4, 1, 2, 2), BLOCK(4, 2, 1, 2), \
  BLOCK(4, 2, 2, 1), BLOCK(4, 1, 4, 1), BLOCK(4, 4, 1, 1), BLOCK(4, 1, 7, 1), ONE(8, 2, 1), \
  BLOCK(8, 1, 2, 1), BLOCK(8, 2, 1, 1), \
  BLOCK(1, 1, 3, 4), BLOCK(1, 3, 1, 4), BLOCK(1, 1, 5, 3), BLOCK(1, 5, 1, 3), BLOCK(1, 3, 3, 2), \
  BLOCK(1, 1, 9, 2), BLOCK(1, 2, 5, 2), BLOCK(1, 5, 2, 2), BLOCK(1, 1, 10, 2), BLOCK(2, 1, 3, 2), \
  BLOCK(2, 3, 1, 2), BLOCK(2, 1, 5, 2), BLOCK(2, 5, 1, 2), BLOCK(2, 3, 3, 1), BLOCK(4, 1, 3, 2), \
  BLOCK(4, 3, 1, 2), BLOCK(4, 1, 5, 1), BLOCK(4, 5, 1, 1)
