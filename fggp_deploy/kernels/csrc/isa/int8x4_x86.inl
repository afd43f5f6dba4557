// Four quads of bytes in 128 bits, for every x86: all but their product. Needs Lanes4.
namespace {

struct Quads4 : Lanes4 {
  using Quads = __m128i;
  static Quads load_quads(const float* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static void store_quads(float* p, Quads v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v); }
  static Quads quad(int word) { return _mm_set1_epi32(word); }
  static Quads add_quads(Quads a, Quads b) { return _mm_add_epi32(a, b); }
  static Quads byte(Quads v, int k) {
    return _mm_and_si128(_mm_srl_epi32(v, _mm_cvtsi32_si128(8 * k)), quad(255));
  }
  static Quads with_byte(Quads v, Quads b, int k) {
    return _mm_or_si128(v, _mm_sll_epi32(b, _mm_cvtsi32_si128(8 * k)));
  }
  static Quads whole(Reg v, Reg from, Reg to) {
    return _mm_cvtps_epi32(min(max(v, from), to));
  }
  static Reg to_float(Quads v) { return _mm_cvtepi32_ps(v); }
  static Quads max_bytes(Quads a, Quads b) { return _mm_max_epu8(a, b); }
  static Quads keep_quads(Quads v, uint32_t m) {
    return _mm_castps_si128(keep(_mm_castsi128_ps(v), m));
  }
};

}  // namespace
