// The activation that ends a layer, written once for all kernels. To add one, add a kind, move
// kFggpLastActivation (programs with a later kind are refused), and add a case to `activate`. If the case
// needs more than `set1`, `min` and `max`, add that function to the vector type of each instruction set and
// to OneLane in program/scalar_activation.h. In Python: its kind in kernels/program.py, and the operators
// that become it in runtime/lowering/activation.py.
//
// This header is compiled with the flags of each instruction set, so everything in it is static and
// no standard header is used (float_body.inl explains why).
#pragma once

extern "C" {

// The kinds, as a program's integers store them.
enum { kFggpNone = 0, kFggpClamp = 1, kFggpLastActivation = kFggpClamp };

// What `a` and `b` mean depends on the kind. Clamp: the lower and the upper limit.
typedef struct {
  int kind;
  float a, b;
} FggpActivation;

}  // extern "C"

// Applies an activation to N registers of a vector type `V`, in place. NaN stays NaN: the value is the
// second operand of `min` and `max`, which they return if either is NaN.
template <class V, int N>
static inline void activate(const FggpActivation& activation, typename V::Reg (&v)[N]) {
  switch (activation.kind) {
    case kFggpClamp: {
      const typename V::Reg low = V::set1(activation.a), high = V::set1(activation.b);
#pragma GCC unroll 32
      for (int i = 0; i < N; i++) v[i] = V::min(high, V::max(low, v[i]));
      break;
    }
    default:
      break;
  }
}
