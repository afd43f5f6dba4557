// Shared by the files for NEON: vectors, int8x4 without their dot product, and the sizes of blocks.
#include "isa/isa.h"

#include <arm_neon.h>

// Returns what an intrinsic makes of one of four lanes, whose number it takes as a constant only.
#define FGGP_BY_LANE(intrinsic, acc, x, w, lane)    \
  switch (lane) {                                   \
    case 0: return intrinsic(acc, x, w, 0);         \
    case 1: return intrinsic(acc, x, w, 1);         \
    case 2: return intrinsic(acc, x, w, 2);         \
    default: return intrinsic(acc, x, w, 3);        \
  }

namespace {

// All ones in the lanes whose bit is set.
inline uint32x4_t lane_mask(uint32_t m) {
  static const uint32_t bit[4] = {1, 2, 4, 8};
  return vtstq_u32(vdupq_n_u32(m), vld1q_u32(bit));
}

template <int N>
struct Lanes {
  using Reg = float32x4_t;
  static constexpr int kRegs = N / 4, kWidth = 4;
  static Reg load(const float* p) { return vld1q_f32(p); }
  static void store(float* p, Reg v) { vst1q_f32(p, v); }
  static Reg set1(float v) { return vdupq_n_f32(v); }
  static Reg zero() { return vdupq_n_f32(0.0f); }
  static Reg fma(Reg a, Reg b, Reg c) { return vfmaq_f32(c, a, b); }
  static Reg add(Reg a, Reg b) { return vaddq_f32(a, b); }
  static Reg mul(Reg a, Reg b) { return vmulq_f32(a, b); }
  static Reg max(Reg a, Reg b) { return vmaxq_f32(a, b); }
  static Reg min(Reg a, Reg b) { return vminq_f32(a, b); }
  static Reg keep(Reg v, uint32_t m) {
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), lane_mask(m)));
  }
  static Reg select(Reg a, Reg b, uint32_t m) { return vbslq_f32(lane_mask(m), a, b); }
  static void prefetch(const void* p) { __builtin_prefetch(p); }
  static constexpr bool kByLane = true;
  static Reg load_lanes(const float* p) { return load(p); }
  static Reg multiply_lane(Reg acc, Reg x, Reg w, int lane) {
    FGGP_BY_LANE(vfmaq_laneq_f32, acc, x, w, lane);
  }

  // Multiplies the entries of a block of one vector, four or more at a time: one load reads four offsets,
  // another four weights, and each multiplication takes its weight from a lane. Returns how many of the
  // n entries are done. V is this type, or one derived from it that multiplies int8x4.
  template <class V, class Value, int U, int G, int R>
  [[gnu::always_inline]] static int multiply_by_lane(const uint16_t* offset, const float* weight,
                                                     const float* input, int n,
                                                     Value (&acc)[U][G][R]) {
    constexpr int E = U < 4 ? 4 : U;  // entries at a time
    int i = 0;
    for (; i + E <= n; i += E) {
      uint64_t offsets[E / 4];
      __builtin_memcpy(offsets, offset + i, sizeof offsets);
      Value w[E * G / 4];
#pragma GCC unroll 8
      for (int k = 0; k < E * G / 4; k++) w[k] = V::load_lanes(weight + i * G + k * 4);
#pragma GCC unroll 8
      for (int e = 0; e < E; e++) {
        const float* x = input + (offsets[e / 4] >> e % 4 * 16 & 0xffff) * N;
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
          const Value in = V::load_lanes(x + r * kWidth);
#pragma GCC unroll 4
          for (int g = 0; g < G; g++) {
            const int k = e * G + g;
            acc[e % U][g][r] = V::multiply_lane(acc[e % U][g][r], in, w[k / 4], k % 4);
          }
        }
      }
    }
    return i;
  }
};

using Lanes16 = Lanes<16>;
using Lanes4 = Lanes<4>;

// Words are signed like the sums of dot products: GCC copies an accumulator that changes its type.
template <class V>
struct Int8x4Neon : V {
  using Words = int32x4_t;
  static Words load_words(const float* p) { return vreinterpretq_s32_f32(vld1q_f32(p)); }
  static Words load_lanes(const float* p) { return load_words(p); }
  static void store_words(float* p, Words v) { vst1q_f32(p, vreinterpretq_f32_s32(v)); }
  static Words set1_word(int word) { return vdupq_n_s32(word); }
  static Words add_words(Words a, Words b) { return vaddq_s32(a, b); }
  static Words byte(Words v, int k) {
    return vandq_s32(vshlq_s32(v, vdupq_n_s32(-8 * k)), set1_word(255));
  }
  static Words with_byte(Words v, Words b, int k) {
    return vorrq_s32(v, vshlq_s32(b, vdupq_n_s32(8 * k)));
  }
  static Words round(typename V::Reg v, typename V::Reg from, typename V::Reg to) {
    // Unlike vmaxq, vmaxnmq returns the number if the other operand is NaN.
    return vcvtnq_s32_f32(vminnmq_f32(vmaxnmq_f32(v, from), to));
  }
  static typename V::Reg to_float(Words v) { return vcvtq_f32_s32(v); }
  static Words max_bytes(Words a, Words b) {
    return vreinterpretq_s32_u8(vmaxq_u8(vreinterpretq_u8_s32(a), vreinterpretq_u8_s32(b)));
  }
  static Words keep_words(Words v, uint32_t m) {
    return vandq_s32(v, vreinterpretq_s32_u32(lane_mask(m)));
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
