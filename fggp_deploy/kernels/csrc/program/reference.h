// The reference that defines correct results: ONNX operators as plain loops in double.
#pragma once
#include "program/program.h"

namespace fggp {

// One image through a whole program, step by step; outputs as in Execution::run.
void run_reference(const Program& program, const std::vector<ValueShape>& inputs,
                   const float* const* data, float* const* outputs);

}  // namespace fggp
