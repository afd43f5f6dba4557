// A kernel program: steps as a list of integers, with constant tensors beside it. A Region node carries
// one, and a single SparseConv becomes one. Nothing in it is trusted; a Program that exists is
// consistent.
//
//   code = [version, inputs, steps, outputs, value of each output, then the fields of each step]
//
// Values are numbered: first the inputs, then one for each step. A step may only read values with
// a smaller number than its own. step.h lists a step's fields.
#pragma once
#include <cstdint>
#include <vector>

#include "program/step.h"

namespace fggp {

struct Program {
  int n_inputs = 0;
  std::vector<Step> steps;
  std::vector<int> outputs;
};

// One image's worth of a value. Flat values are row-major and have one dimension, `channels`.
struct ValueShape {
  bool flat = false;
  bool keeps_rank = false;  // flat, but [C, 1, 1] outside: the output of a GlobalAveragePool
  bool vector() const { return flat && !keeps_rank; }
  int64_t channels = 0, height = 1, width = 1;
  size_t size() const {
    return static_cast<size_t>(channels) * static_cast<size_t>(height) *
           static_cast<size_t>(width);
  }
};

// Reads a program; throws an Error that names the step and the rule that it breaks.
Program parse_program(const std::vector<int64_t>& code, const std::vector<Tensor>& constants);

// Whether it has linear layers and, besides them, only steps that work element by element. Then each row
// of a value is an image: the last dimension holds a vector, and all others count rows.
bool is_on_rows(const Program& program);

// The integers of a program, as `parse_program` reads them.
std::vector<int64_t> encode_program(const Program& program);

// The same program with the zeros of its weights among their entries, so that they are multiplied too.
Program with_zeros(const Program& program);

// The shape of every value of one image; throws an Error if a step does not fit what it reads.
std::vector<ValueShape> infer_shapes(const Program& program,
                                     const std::vector<ValueShape>& inputs);

}  // namespace fggp
