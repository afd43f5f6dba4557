// Compiled with the flags of avx512.cpp and -mavx512vnni. See float_body.inl for why this file
// uses nothing but intrinsics.
#include "isa/avx512.inl"
#include "isa/int8x4_x86.inl"

namespace {

struct Int8x4Lanes16 : Lanes16 {
  using Words = __m512i;
  static Words load_words(const float* p) { return _mm512_loadu_si512(p); }
  static void store_words(float* p, Words v) { _mm512_storeu_si512(p, v); }
  static Words set1_word(int word) { return _mm512_set1_epi32(word); }
  static Words dot(Words acc, Words x, Words w) { return _mm512_dpbusd_epi32(acc, x, w); }
  static Words add_words(Words a, Words b) { return _mm512_add_epi32(a, b); }
  static Words byte(Words v, int k) {
    return _mm512_and_si512(_mm512_srl_epi32(v, _mm_cvtsi32_si128(8 * k)), set1_word(255));
  }
  static Words with_byte(Words v, Words b, int k) {
    return _mm512_or_si512(v, _mm512_sll_epi32(b, _mm_cvtsi32_si128(8 * k)));
  }
  static Words round(Reg v, Reg from, Reg to) {
    return _mm512_cvtps_epi32(min(max(v, from), to));
  }
  static Reg to_float(Words v) { return _mm512_cvtepi32_ps(v); }
  static Words max_bytes(Words a, Words b) { return _mm512_max_epu8(a, b); }
  static Words keep_words(Words v, uint32_t m) {
    return _mm512_maskz_mov_epi32(static_cast<__mmask16>(m), v);
  }
};

struct Int8x4Lanes4 : Int8x4X86 {
  static Words dot(Words acc, Words x, Words w) { return _mm_dpbusd_epi32(acc, x, w); }
};

}  // namespace

#include "isa/int8x4_body.inl"

namespace {

int supported() { return fggp_avx512.supported() && __builtin_cpu_supports("avx512vnni"); }

const FggpConvVariant kInt8x4Conv[] = {FGGP_BLOCKS(FGGP_INT8X4, FGGP_INT8X4_ONE)};

}  // namespace

extern "C" const FggpInt8x4 fggp_int8x4_vnni = {
    "vnni", supported, 0, kInt8x4Conv, sizeof(kInt8x4Conv) / sizeof(kInt8x4Conv[0]),
    pool_int8x4<Int8x4Lanes16>, pool_int8x4<Int8x4Lanes4>, from_floats<Int8x4Lanes16, Int8x4Lanes4>,
    to_floats<Int8x4Lanes16, Int8x4Lanes4>,
};
