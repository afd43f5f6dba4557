// Compiled with -mavx2 -mfma -mavxvnni: the dot product of bytes on processors without AVX-512.
#include "isa/avx2.inl"

#include <cpuid.h>

namespace {

struct Int8x4Lanes16 : Int8x4Avx2 {
  static Words dot(Words acc, Words x, Words w) { return _mm256_dpbusd_avx_epi32(acc, x, w); }
};

struct Int8x4Lanes4 : Int8x4X86 {
  static Words dot(Words acc, Words x, Words w) { return _mm_dpbusd_avx_epi32(acc, x, w); }
};

}  // namespace

#include "isa/int8x4_body.inl"

namespace {

bool has_avx_vnni() {
  constexpr unsigned kAvxVnni = 1u << 4;  // of EAX, leaf 7, subleaf 1
  unsigned eax = 0, ebx, ecx, edx;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & kAvxVnni) != 0;
}

int supported() {
  if (!fggp_avx2.supported()) return 0;
  static const bool has = has_avx_vnni();  // once: a virtual machine takes microseconds to answer
  return has;
}

const FggpConvVariant kInt8x4Conv[] = {FGGP_BLOCKS(FGGP_INT8X4, FGGP_INT8X4_ONE)};

}  // namespace

extern "C" const FggpInt8x4 fggp_int8x4_avx_vnni = {
    "avx_vnni", supported, 0, kInt8x4Conv, sizeof(kInt8x4Conv) / sizeof(kInt8x4Conv[0]),
    pool_int8x4<Int8x4Lanes16>, pool_int8x4<Int8x4Lanes4>, from_floats<Int8x4Lanes16, Int8x4Lanes4>,
    to_floats<Int8x4Lanes16, Int8x4Lanes4>,
};
