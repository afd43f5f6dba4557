// libFuzzer on programs and packed tensors: whatever the bytes, they are refused or run within their
// memory. Needs Clang.
//   CXX=clang++ cmake -S . -B build-fuzz -DFGGP_FUZZ=ON && cmake --build build-fuzz
//   mkdir corpus && build-fuzz/fggp_harness --corpus corpus 500
//   build-fuzz/fggp_fuzz -max_len=20000 -timeout=60 -max_total_time=3600 corpus
#include "random_programs.h"
#include "plan/runner.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Example c = from_bytes(data, size);
  try {
    const Program program = parse_program(c.code, c.constants);
    const std::vector<ValueShape> inputs(static_cast<size_t>(program.n_inputs), c.input);
    double work = 0;
    for (const ValueShape& v : infer_shapes(program, inputs)) {
      if (v.channels < 1 || v.height < 1 || v.width < 1 || v.size() > size_t{1} << 18) return 0;
      work += static_cast<double>(v.size());
    }
    for (const Step& s : program.steps)  // large windows take long, not wrongly
      if (s.shape.taps() > 256) return 0;
    if (work > 1 << 20) return 0;
    Runner runner(program, fggp_best_isa(), 2);
    const auto execution = runner.execution(inputs);
    if (execution->workspace_floats() > size_t{1} << 22 || execution->work() > 1e7) return 0;
    std::vector<float> x(c.input.size(), 1.0f);
    const std::vector<const float*> in(inputs.size(), x.data());
    std::vector<std::vector<float>> outputs;
    std::vector<float*> out;
    for (const ValueShape& v : execution->outputs()) outputs.emplace_back(v.size());
    for (auto& o : outputs) out.push_back(o.data());
    runner.run(inputs, 1, in.data(), out.data(), Threads());
  } catch (const Error&) {
  }
  return 0;
}
