// Compiled with -march=armv8.2-a+dotprod. See float_body.inl for why this file uses nothing but
// intrinsics.
#include "isa/neon.inl"

#ifdef __linux__
extern "C" unsigned long getauxval(unsigned long type);
#endif

namespace {

// With the dot product of signed bytes, which is more common than that of unsigned by signed:
// bytes have 128 taken off, and sums begin with what that takes off the whole.
template <class V>
struct Dots : V {
  using Quads = uint32x4_t;
  static Quads load_quads(const float* p) { return vreinterpretq_u32_f32(vld1q_f32(p)); }
  static void store_quads(float* p, Quads v) { vst1q_f32(p, vreinterpretq_f32_u32(v)); }
  static Quads quad(int word) { return vdupq_n_u32(static_cast<uint32_t>(word)); }
  static Quads dot(Quads acc, Quads x, Quads w) {
    const int8x16_t less = vreinterpretq_s8_u32(veorq_u32(x, vdupq_n_u32(0x80808080u)));
    return vreinterpretq_u32_s32(
        vdotq_s32(vreinterpretq_s32_u32(acc), less, vreinterpretq_s8_u32(w)));
  }
  static Quads add_quads(Quads a, Quads b) { return vaddq_u32(a, b); }
  static Quads byte(Quads v, int k) {
    return vandq_u32(vshlq_u32(v, vdupq_n_s32(-8 * k)), quad(255));
  }
  static Quads with_byte(Quads v, Quads b, int k) {
    return vorrq_u32(v, vshlq_u32(b, vdupq_n_s32(8 * k)));
  }
  static Quads whole(typename V::Reg v, typename V::Reg from, typename V::Reg to) {
    // Unlike vmaxq, vmaxnmq returns the number if the other operand is NaN.
    return vreinterpretq_u32_s32(vcvtnq_s32_f32(vminnmq_f32(vmaxnmq_f32(v, from), to)));
  }
  static typename V::Reg to_float(Quads v) { return vcvtq_f32_s32(vreinterpretq_s32_u32(v)); }
  static Quads max_bytes(Quads a, Quads b) {
    return vreinterpretq_u32_u8(vmaxq_u8(vreinterpretq_u8_u32(a), vreinterpretq_u8_u32(b)));
  }
  static Quads keep_quads(Quads v, uint32_t m) { return vandq_u32(v, lane_mask(m)); }
};

using Dots16 = Dots<Lanes16>;
using Dots4 = Dots<Lanes4>;

}  // namespace

#include "isa/int8x4_body.inl"

namespace {

int supported() {
#ifdef __linux__
  constexpr unsigned long kHwcap = 16, kDotProduct = 1ul << 20;  // AT_HWCAP, HWCAP_ASIMDDP
  return (getauxval(kHwcap) & kDotProduct) != 0;
#elif defined(__APPLE__)
  return 1;  // every processor since the first M
#else
  return 0;
#endif
}

const FggpConvVariant kDotConv[] = {FGGP_BLOCKS(FGGP_DOT, FGGP_DOT_ONE)};

}  // namespace

extern "C" const FggpDots fggp_dots_neon = {
    "neon", supported, 128, kDotConv, sizeof(kDotConv) / sizeof(kDotConv[0]),
    pool_quads<Dots16>, pool_quads<Dots4>, from_floats<Dots16, Dots4>,
    to_floats<Dots16, Dots4>,
};
