// Chooses the variant of each convolution by timing it in the layouts that its neighbors use.
#pragma once
#include "plan/execution.h"

namespace fggp {

// Sets the variant of every Conv step to the fastest found for these input shapes. `seconds` is
// about what it may take in all.
void tune(Program& program, const FggpIsa& isa, const std::vector<ValueShape>& inputs,
          double seconds);

}  // namespace fggp
