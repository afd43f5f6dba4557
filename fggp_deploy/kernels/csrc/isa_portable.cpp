// Compiled with the compiler's default flags, for any processor. Four floats a register, which
// every compiler turns into whatever the baseline has.
#include "isa.h"

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
    return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static Reg min(Reg a, Reg b) {
    return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static Reg keep(Reg a, uint32_t m) { return select(a, zero(), m); }
  static Reg select(Reg a, Reg b, uint32_t m) {
    return each([&](int i) { return m >> i & 1 ? a.v[i] : b.v[i]; });
  }
  static void prefetch(const void*) {}
};

using Lanes16 = Lanes<16>;
using Lanes4 = Lanes<4>;

}  // namespace

#include "isa_body.inl"

namespace {

float dot(const float* weight, const uint32_t* column, size_t n, const float* x) {
  return column ? dot_by_element(weight, column, n, x) : dot_dense<Lanes16>(weight, n, x);
}

int supported() { return 1; }

const FggpConvVariant kConv[] = {
    FGGP_CONV_ONE(1, 2, 4), FGGP_CONV(1, 1, 2, 1), FGGP_CONV(1, 2, 1, 1),
    FGGP_CONV_ONE(2, 1, 2), FGGP_CONV_ONE(4, 1, 1),
};

}  // namespace

extern "C" const FggpIsa fggp_portable = {
    "portable", supported, kConv, sizeof(kConv) / sizeof(kConv[0]), pool<Lanes16>, pool<Lanes4>,
    depthwise<Lanes16>, depthwise<Lanes4>, halo_by_lane<16>, halo_by_lane<4>, pack_by_element,
    gather_by_element, nullptr, 0, sum<Lanes16>, sum<Lanes4>, dot,
};
