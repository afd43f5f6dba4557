#include "program/program.h"

#include <string>

#include "program/error.h"

namespace fggp {

std::vector<ValueShape> infer_shapes(const Program& program,
                                     const std::vector<ValueShape>& inputs) {
  if (inputs.size() != static_cast<size_t>(program.n_inputs))
    throw Error("the program has " + std::to_string(program.n_inputs) + " inputs, not " +
                std::to_string(inputs.size()));
  std::vector<ValueShape> values = inputs;
  for (const Step& s : program.steps) {
    const ValueShape in = values[static_cast<size_t>(s.input)];
    const bool any_rank = s.op == Op::kFlatten || s.op == Op::kAdd || s.op == Op::kRound;
    if (!any_rank && in.vector() != (s.op == Op::kGemm))
      throw Error("a step reads a value of the wrong rank");
    ValueShape out;
    switch (s.op) {
      case Op::kConv:
      case Op::kMaxPool:
      case Op::kAveragePool:
        if (s.shape.cin != in.channels)
          throw Error("a step takes " + std::to_string(s.shape.cin) + " channels but is given " +
                      std::to_string(in.channels));
        if (s.op != Op::kConv && s.shape.cout != in.channels)
          throw Error("a pooling changes the number of channels");
        out.channels = s.shape.cout;
        out.height = s.shape.out_h(in.height);
        out.width = s.shape.out_w(in.width);
        break;
      case Op::kGlobalAverage:
        out.flat = out.keeps_rank = true;
        out.channels = in.channels;
        break;
      case Op::kFlatten:
        out.flat = true;
        out.channels = in.channels * in.height * in.width;
        break;
      case Op::kGemm:
        if (s.shape.cin != in.channels)
          throw Error("a Gemm takes " + std::to_string(s.shape.cin) + " values but is given " +
                      std::to_string(in.channels));
        out.flat = true;
        out.channels = s.shape.cout;
        break;
      case Op::kAdd:
      case Op::kRound:
        out = in;
        out.flat = in.vector();
        out.keeps_rank = false;
        break;
    }
    if (s.residual >= 0) {
      const ValueShape& r = values[static_cast<size_t>(s.residual)];
      if (r.vector() != out.vector() || r.channels != out.channels || r.height != out.height || r.width != out.width)
        throw Error("a residual has another shape than what it is added to");
    }
    if (s.scale != 0.0f && out.flat) throw Error("a value without planes has a scale");
    values.push_back(out);
  }
  return values;
}

}  // namespace fggp
