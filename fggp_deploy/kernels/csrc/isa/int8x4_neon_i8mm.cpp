// Compiled with -march=armv8.2-a+i8mm: the dot product of unsigned by signed bytes. See float_body.inl
// for why this file uses nothing but intrinsics.
#include "isa/neon.inl"

#ifdef __linux__
extern "C" unsigned long getauxval(unsigned long type);
#elif defined(__APPLE__)
extern "C" int sysctlbyname(const char* name, void* value, size_t* size, void* to, size_t to_size);
#endif

namespace {

template <class V>
struct Int8x4Lanes : Int8x4Neon<V> {
  static int32x4_t dot(int32x4_t acc, int32x4_t x, int32x4_t w) {
    return vusdotq_s32(acc, vreinterpretq_u8_s32(x), vreinterpretq_s8_s32(w));
  }
  static int32x4_t multiply_lane(int32x4_t acc, int32x4_t x, int32x4_t w, int lane) {
    FGGP_BY_LANE(vusdotq_laneq_s32, acc, vreinterpretq_u8_s32(x), vreinterpretq_s8_s32(w), lane);
  }
};

using Int8x4Lanes16 = Int8x4Lanes<Lanes16>;
using Int8x4Lanes4 = Int8x4Lanes<Lanes4>;

}  // namespace

#include "isa/int8x4_body.inl"

namespace {

int supported() {
#ifdef __linux__
  constexpr unsigned long kHwcap2 = 26, kI8mm = 1ul << 13;  // AT_HWCAP2, HWCAP2_I8MM
  return (getauxval(kHwcap2) & kI8mm) != 0;
#elif defined(__APPLE__)
  int has = 0;
  size_t size = sizeof has;
  return sysctlbyname("hw.optional.arm.FEAT_I8MM", &has, &size, nullptr, 0) == 0 && has;
#else
  return 0;
#endif
}

const FggpConvVariant kInt8x4Conv[] = {FGGP_BLOCKS(FGGP_INT8X4, FGGP_INT8X4_ONE)};

}  // namespace

extern "C" const FggpInt8x4 fggp_int8x4_neon_i8mm = {
    "neon_i8mm", supported, 0, kInt8x4Conv, sizeof(kInt8x4Conv) / sizeof(kInt8x4Conv[0]),
    pool_int8x4<Int8x4Lanes16>, pool_int8x4<Int8x4Lanes4>, from_floats<Int8x4Lanes16, Int8x4Lanes4>,
    to_floats<Int8x4Lanes16, Int8x4Lanes4>,
};
