// Four int8x4 in 128 bits, for every x86: everything but their dot product. Needs Lanes4.
namespace {

struct Int8x4X86 : Lanes4 {
  using Words = __m128i;
  static Words load_words(const float* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static void store_words(float* p, Words v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v); }
  static Words set1_word(int word) { return _mm_set1_epi32(word); }
  static Words add_words(Words a, Words b) { return _mm_add_epi32(a, b); }
  static Words byte(Words v, int k) {
    return _mm_and_si128(_mm_srl_epi32(v, _mm_cvtsi32_si128(8 * k)), set1_word(255));
  }
  static Words with_byte(Words v, Words b, int k) {
    return _mm_or_si128(v, _mm_sll_epi32(b, _mm_cvtsi32_si128(8 * k)));
  }
  static Words round(Reg v, Reg from, Reg to) {
    return _mm_cvtps_epi32(min(max(v, from), to));
  }
  static Reg to_float(Words v) { return _mm_cvtepi32_ps(v); }
  static Words max_bytes(Words a, Words b) { return _mm_max_epu8(a, b); }
  static Words keep_words(Words v, uint32_t m) {
    return _mm_castps_si128(keep(_mm_castsi128_ps(v), m));
  }
};

}  // namespace
