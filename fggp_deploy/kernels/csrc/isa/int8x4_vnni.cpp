// Compiled with the flags of avx512.cpp and -mavx512vnni. See float_body.inl for why this file
// uses nothing but intrinsics.
#include "isa/avx512.inl"
#include "isa/int8x4_x86.inl"

namespace {

struct Dots16 : Lanes16 {
  using Quads = __m512i;
  static Quads load_quads(const float* p) { return _mm512_loadu_si512(p); }
  static void store_quads(float* p, Quads v) { _mm512_storeu_si512(p, v); }
  static Quads quad(int word) { return _mm512_set1_epi32(word); }
  static Quads dot(Quads acc, Quads x, Quads w) { return _mm512_dpbusd_epi32(acc, x, w); }
  static Quads add_quads(Quads a, Quads b) { return _mm512_add_epi32(a, b); }
  static Quads byte(Quads v, int k) {
    return _mm512_and_si512(_mm512_srl_epi32(v, _mm_cvtsi32_si128(8 * k)), quad(255));
  }
  static Quads with_byte(Quads v, Quads b, int k) {
    return _mm512_or_si512(v, _mm512_sll_epi32(b, _mm_cvtsi32_si128(8 * k)));
  }
  static Quads whole(Reg v, Reg from, Reg to) {
    return _mm512_cvtps_epi32(min(max(v, from), to));
  }
  static Reg to_float(Quads v) { return _mm512_cvtepi32_ps(v); }
  static Quads max_bytes(Quads a, Quads b) { return _mm512_max_epu8(a, b); }
  static Quads keep_quads(Quads v, uint32_t m) {
    return _mm512_maskz_mov_epi32(static_cast<__mmask16>(m), v);
  }
};

struct Dots4 : Quads4 {
  static Quads dot(Quads acc, Quads x, Quads w) { return _mm_dpbusd_epi32(acc, x, w); }
};

}  // namespace

#include "isa/int8x4_body.inl"

namespace {

int supported() { return fggp_avx512.supported() && __builtin_cpu_supports("avx512vnni"); }

const FggpConvVariant kDotConv[] = {FGGP_BLOCKS(FGGP_DOT, FGGP_DOT_ONE)};

}  // namespace

extern "C" const FggpDots fggp_dots_vnni = {
    "vnni", supported, 0, kDotConv, sizeof(kDotConv) / sizeof(kDotConv[0]),
    pool_quads<Dots16>, pool_quads<Dots4>, from_floats<Dots16, Dots4>,
    to_floats<Dots16, Dots4>,
};
