// The activation of a step, for one float: the kernels' own code over a vector of one lane.
#pragma once
#include "isa/activation.h"

namespace fggp {

using Activation = FggpActivation;

struct OneLane {
  using Reg = float;
  static Reg set1(float v) { return v; }
  static Reg max(Reg a, Reg b) { return a > b ? a : b; }
  static Reg min(Reg a, Reg b) { return a < b ? a : b; }
};

inline float activated(const Activation& activation, float v) {
  float lane[1] = {v};
  activate<OneLane>(activation, lane);
  return lane[0];
}

}  // namespace fggp
