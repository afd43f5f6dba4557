// Compiled with the compiler's default flags, for any processor. Four floats per register, which
// compilers translate to the vector instructions of the target.
#include "isa/isa.h"

namespace {

struct Float4 {
  float v[4];
};

template <int N>
struct Lanes {
  using Reg = Float4;
  static constexpr int kRegs = N / 4, kWidth = 4;
  template <class F>
  static Reg each(F f) {
    return {{f(0), f(1), f(2), f(3)}};
  }
  static Reg load(const float* p) {
    return each([=](int i) { return p[i]; });
  }
  static void store(float* p, Reg a) {
    for (int i = 0; i < 4; i++) p[i] = a.v[i];
  }
  static Reg set1(float x) {
    return each([=](int) { return x; });
  }
  static Reg zero() { return set1(0.0f); }
  static Reg fma(Reg a, Reg b, Reg c) {
    return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
  }
  static Reg add(Reg a, Reg b) {
    return each([&](int i) { return a.v[i] + b.v[i]; });
  }
  static Reg mul(Reg a, Reg b) {
    return each([&](int i) { return a.v[i] * b.v[i]; });
  }
  static Reg max(Reg a, Reg b) {
    return each([&](int i) { return larger(a.v[i], b.v[i]); });
  }
  static Reg min(Reg a, Reg b) {
    return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static Reg keep(Reg a, uint32_t m) { return select(a, zero(), m); }
  static Reg select(Reg a, Reg b, uint32_t m) {
    return each([&](int i) { return m >> i & 1 ? a.v[i] : b.v[i]; });
  }
  static void prefetch(const void*) {}
  static constexpr bool kByLane = false;
};

using Lanes16 = Lanes<16>;
using Lanes4 = Lanes<4>;

}  // namespace

#include "isa/float_body.inl"

namespace {

struct Word4 {
  uint32_t v[4];
};

template <class V>
struct Int8x4Lanes : V {
  using Words = Word4;
  template <class F>
  static Words every(F f) {
    return {{static_cast<uint32_t>(f(0)), static_cast<uint32_t>(f(1)), static_cast<uint32_t>(f(2)),
             static_cast<uint32_t>(f(3))}};
  }
  static Words load_words(const float* p) {
    Words q;
    __builtin_memcpy(&q, p, sizeof q);
    return q;
  }
  static void store_words(float* p, Words q) { __builtin_memcpy(p, &q, sizeof q); }
  static Words set1_word(int word) {
    return every([=](int) { return word; });
  }
  static int signed_byte(uint32_t word, int k) { return static_cast<int8_t>(word >> 8 * k & 255); }
  static int byte_of(uint32_t word, int k) { return static_cast<int>(word >> 8 * k & 255); }
  static Words dot(Words acc, Words x, Words w) {
    return every([&](int i) {
      int sum = 0;
      for (int k = 0; k < 4; k++) sum += byte_of(x.v[i], k) * signed_byte(w.v[i], k);
      return acc.v[i] + static_cast<uint32_t>(sum);
    });
  }
  static Words add_words(Words a, Words b) {
    return every([&](int i) { return a.v[i] + b.v[i]; });
  }
  static Words byte(Words q, int k) {
    return every([&](int i) { return byte_of(q.v[i], k); });
  }
  static Words with_byte(Words q, Words b, int k) {
    return every([&](int i) { return q.v[i] | b.v[i] << 8 * k; });
  }
  static Words round(typename V::Reg v, typename V::Reg from, typename V::Reg to) {
    return every([&](int i) {
      const float least = v.v[i] > from.v[i] ? v.v[i] : from.v[i];
      // Adding 1.5 * 2^23 leaves no bits for fractions, and rounds ties to even.
      volatile float shifted = (least < to.v[i] ? least : to.v[i]) + 12582912.0f;
      return static_cast<int>(shifted - 12582912.0f);
    });
  }
  static typename V::Reg to_float(Words q) {
    return V::each([&](int i) { return static_cast<float>(static_cast<int>(q.v[i])); });
  }
  static Words max_bytes(Words a, Words b) {
    return every([&](int i) {
      uint32_t word = 0;
      for (int k = 0; k < 4; k++) {
        const int x = byte_of(a.v[i], k), y = byte_of(b.v[i], k);
        word |= static_cast<uint32_t>(x > y ? x : y) << 8 * k;
      }
      return word;
    });
  }
  static Words keep_words(Words q, uint32_t m) {
    return every([&](int i) { return m >> i & 1 ? q.v[i] : 0u; });
  }
};

using Int8x4Lanes16 = Int8x4Lanes<Lanes16>;
using Int8x4Lanes4 = Int8x4Lanes<Lanes4>;

}  // namespace

#include "isa/int8x4_body.inl"

namespace {

float dot(const float* weight, const uint32_t* column, size_t n, const float* x) {
  return column ? dot_by_element(weight, column, n, x) : dot_dense<Lanes16>(weight, n, x);
}

int supported() { return 1; }

// The compiled blocks: output channels, rows and columns of vectors, entries at a time.
#define FGGP_BLOCKS(BLOCK, ONE) \
  ONE(1, 2, 4), BLOCK(1, 1, 2, 1), BLOCK(1, 2, 1, 1), ONE(2, 1, 2), ONE(4, 1, 1)

const FggpConvVariant kConv[] = {FGGP_BLOCKS(FGGP_CONV, FGGP_CONV_ONE)};
const FggpConvVariant kInt8x4Conv[] = {FGGP_BLOCKS(FGGP_INT8X4, FGGP_INT8X4_ONE)};

const FggpInt8x4* const kInt8x4[] = {&fggp_int8x4_portable, nullptr};

}  // namespace

extern "C" const FggpIsa fggp_portable = {
    "portable", supported, kInt8x4, kConv, sizeof(kConv) / sizeof(kConv[0]), pool<Lanes16>, pool<Lanes4>,
    depthwise<Lanes16>, depthwise<Lanes4>, halo<PermutationByLane<16>>,
    halo<PermutationByLane<4>>, pack_by_element, transpose_by_element, gather_by_element, nullptr, 0,
    sum<Lanes16>, sum<Lanes4>, finite<Lanes16>, dot, dense<Lanes16, 2, 1>, 16,
};

extern "C" const FggpInt8x4 fggp_int8x4_portable = {
    "portable", supported, 0, kInt8x4Conv, sizeof(kInt8x4Conv) / sizeof(kInt8x4Conv[0]),
    pool_int8x4<Int8x4Lanes16>, pool_int8x4<Int8x4Lanes4>, from_floats<Int8x4Lanes16, Int8x4Lanes4>,
    to_floats<Int8x4Lanes16, Int8x4Lanes4>,
};
