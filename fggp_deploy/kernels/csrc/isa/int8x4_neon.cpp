// Compiled with -march=armv8.2-a+dotprod. See float_body.inl for why this file uses nothing but
// intrinsics.
#include "isa/neon.inl"

#ifdef __linux__
extern "C" unsigned long getauxval(unsigned long type);
#endif

namespace {

// The dot product of signed by signed bytes is more common than that of unsigned by signed. So 128 is
// subtracted from each byte, and each sum starts with a value that compensates for it.
template <class V>
struct Int8x4Lanes : V {
  using Words = uint32x4_t;
  static Words load_words(const float* p) { return vreinterpretq_u32_f32(vld1q_f32(p)); }
  static void store_words(float* p, Words v) { vst1q_f32(p, vreinterpretq_f32_u32(v)); }
  static Words set1_word(int word) { return vdupq_n_u32(static_cast<uint32_t>(word)); }
  static Words dot(Words acc, Words x, Words w) {
    const int8x16_t shifted = vreinterpretq_s8_u32(veorq_u32(x, vdupq_n_u32(0x80808080u)));
    return vreinterpretq_u32_s32(
        vdotq_s32(vreinterpretq_s32_u32(acc), shifted, vreinterpretq_s8_u32(w)));
  }
  static Words add_words(Words a, Words b) { return vaddq_u32(a, b); }
  static Words byte(Words v, int k) {
    return vandq_u32(vshlq_u32(v, vdupq_n_s32(-8 * k)), set1_word(255));
  }
  static Words with_byte(Words v, Words b, int k) {
    return vorrq_u32(v, vshlq_u32(b, vdupq_n_s32(8 * k)));
  }
  static Words round(typename V::Reg v, typename V::Reg from, typename V::Reg to) {
    // Unlike vmaxq, vmaxnmq returns the number if the other operand is NaN.
    return vreinterpretq_u32_s32(vcvtnq_s32_f32(vminnmq_f32(vmaxnmq_f32(v, from), to)));
  }
  static typename V::Reg to_float(Words v) { return vcvtq_f32_s32(vreinterpretq_s32_u32(v)); }
  static Words max_bytes(Words a, Words b) {
    return vreinterpretq_u32_u8(vmaxq_u8(vreinterpretq_u8_u32(a), vreinterpretq_u8_u32(b)));
  }
  static Words keep_words(Words v, uint32_t m) { return vandq_u32(v, lane_mask(m)); }
};

using Int8x4Lanes16 = Int8x4Lanes<Lanes16>;
using Int8x4Lanes4 = Int8x4Lanes<Lanes4>;

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

const FggpConvVariant kInt8x4Conv[] = {FGGP_BLOCKS(FGGP_INT8X4, FGGP_INT8X4_ONE)};

}  // namespace

extern "C" const FggpInt8x4 fggp_int8x4_neon = {
    "neon", supported, 128, kInt8x4Conv, sizeof(kInt8x4Conv) / sizeof(kInt8x4Conv[0]),
    pool_int8x4<Int8x4Lanes16>, pool_int8x4<Int8x4Lanes4>, from_floats<Int8x4Lanes16, Int8x4Lanes4>,
    to_floats<Int8x4Lanes16, Int8x4Lanes4>,
};
