// Compiled with -march=armv8.2-a+dotprod. See float_body.inl for why this file uses nothing but
// intrinsics.
#include "isa/neon.inl"

#ifdef __linux__
extern "C" unsigned long getauxval(unsigned long type);
#endif

namespace {

// These processors multiply signed bytes by signed ones only. So 128 is subtracted from each byte, and
// each sum starts with a value that compensates for it.
template <class V>
struct Int8x4Lanes : Int8x4Neon<V> {
  static int8x16_t shifted(int32x4_t x) {
    return vreinterpretq_s8_s32(veorq_s32(x, vdupq_n_s32(static_cast<int>(0x80808080u))));
  }
  static int32x4_t dot(int32x4_t acc, int32x4_t x, int32x4_t w) {
    return vdotq_s32(acc, shifted(x), vreinterpretq_s8_s32(w));
  }
  static int32x4_t multiply_lane(int32x4_t acc, int32x4_t x, int32x4_t w, int lane) {
    FGGP_BY_LANE(vdotq_laneq_s32, acc, shifted(x), vreinterpretq_s8_s32(w), lane);
  }
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
