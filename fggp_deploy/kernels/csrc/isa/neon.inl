// Shared by the files for NEON: vectors and the sizes of blocks.
#include "isa/isa.h"

#include <arm_neon.h>

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
};

using Lanes16 = Lanes<16>;
using Lanes4 = Lanes<4>;

}  // namespace

// The compiled blocks: output channels, rows and columns of vectors, entries at a time. A program stores
// the number of a block, so new ones are added at the end.
#define FGGP_BLOCKS(BLOCK, ONE) \
  ONE(1, 4, 8), BLOCK(1, 1, 2, 2), BLOCK(1, 2, 1, 2), BLOCK(1, 1, 4, 1), BLOCK(1, 4, 1, 1), \
  BLOCK(1, 2, 2, 1), BLOCK(1, 1, 7, 1), BLOCK(1, 7, 1, 1), ONE(2, 2, 4), BLOCK(2, 1, 2, 1), \
  BLOCK(2, 2, 1, 1), ONE(4, 1, 2), BLOCK(1, 1, 3, 2), BLOCK(1, 3, 1, 2), BLOCK(1, 1, 5, 1), \
  BLOCK(1, 5, 1, 1), BLOCK(2, 1, 3, 1), BLOCK(2, 3, 1, 1)
