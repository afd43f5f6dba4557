// The interface that Python and the tests call: a program is made from integers and tensors, and run on
// one instruction set or on the reference. Every function that can fail writes a message.
#include <algorithm>
#include <cstring>

#include "program/reference.h"
#include "plan/runner.h"
#include "program/error.h"
#include "plan/tune.h"

namespace {

using namespace fggp;

struct CTensor {
  const void* data;
  uint64_t count;
  int32_t type;  // as in ONNX: 1 float, 2 uint8, 4 uint16, 10 float16
};

// Returns 0, or 1 with the reason in `error`.
template <class F>
int guarded(char* error, size_t size, const F& f) {
  try {
    f();
    return 0;
  } catch (const std::exception& e) {
    std::strncpy(error, e.what(), size - 1);
    error[size - 1] = 0;
    return 1;
  }
}

const FggpIsa& isa_at(int index) {
  int n = 0;
  const FggpIsa* const* all = fggp_isas(&n);
  if (index < 0 || index >= n || !all[index]->supported()) throw Error("no such instruction set");
  return *all[index];
}

// Four integers per input: 1 if flat, channels, height, width.
std::vector<ValueShape> shapes_of(const Program& p, const int64_t* dims) {
  std::vector<ValueShape> shapes;
  for (int i = 0; i < p.n_inputs; i++, dims += 4)
    shapes.push_back({dims[0] != 0, false, dims[1], dims[2], dims[3]});
  return shapes;
}

}  // namespace

FGGP_EXPORT const char* fggp_isa_name(int index) {
  int n = 0;
  const FggpIsa* const* all = fggp_isas(&n);
  return index >= 0 && index < n ? all[index]->name : nullptr;
}

FGGP_EXPORT int fggp_isa_supported(int index) {
  int n = 0;
  const FggpIsa* const* all = fggp_isas(&n);
  return index >= 0 && index < n && all[index]->supported();
}

FGGP_EXPORT void* fggp_program_new(const int64_t* code, size_t n, const CTensor* constants,
                                   size_t n_constants, char* error, size_t error_size) {
  Program* made = nullptr;
  guarded(error, error_size, [&] {
    std::vector<Tensor> tensors;
    for (size_t i = 0; i < n_constants; i++) {
      const CTensor& c = constants[i];
      Tensor t{c.data, c.count, Type::kFloat};
      if (c.type == 2) t.type = Type::kUint8;
      else if (c.type == 3) t.type = Type::kInt8;
      else if (c.type == 4) t.type = Type::kUint16;
      else if (c.type == 10) t.type = Type::kFloat16;
      else if (c.type != 1) throw Error("unknown element type");
      tensors.push_back(t);
    }
    made = new Program(parse_program(std::vector<int64_t>(code, code + n), tensors));
  });
  return made;
}

FGGP_EXPORT void fggp_program_free(void* program) { delete static_cast<Program*>(program); }

// `isa` -1 is the reference. Steps are divided into parts for `threads` threads, which `lend` provides
// as in plan/threads.h; if it is null, all parts run on this thread. Outputs must have the sizes that
// fggp_program_shapes writes.
FGGP_EXPORT int fggp_program_run(const void* program, int isa, int threads,
                                 void (*lend)(void*, size_t, void (*)(void*, size_t), void*),
                                 const int64_t* dims, int64_t n, const float* const* in, float* const* out,
                                 char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    const Program& p = *static_cast<const Program*>(program);
    const std::vector<ValueShape> shapes = shapes_of(p, dims);
    if (isa >= 0) {
      Runner runner(p, isa_at(isa), {threads, 1.0});
      runner.run(shapes, n, in, out, {lend, nullptr});
      return;
    }
    const std::vector<ValueShape> values = infer_shapes(p, shapes);
    std::vector<const float*> from(in, in + shapes.size());
    std::vector<float*> to(out, out + p.outputs.size());
    for (int64_t image = 0; image < n; image++) {
      run_reference(p, shapes, from.data(), to.data());
      for (size_t i = 0; i < from.size(); i++) from[i] += shapes[i].size();
      for (size_t i = 0; i < to.size(); i++)
        to[i] += values[static_cast<size_t>(p.outputs[i])].size();
    }
  });
}

// Writes four integers for each output: 1 if flat, channels, height, width.
FGGP_EXPORT int fggp_program_shapes(const void* program, const int64_t* dims, int64_t* out,
                                    char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    const Program& p = *static_cast<const Program*>(program);
    const std::vector<ValueShape> values = infer_shapes(p, shapes_of(p, dims));
    for (int o : p.outputs) {
      const ValueShape& s = values[static_cast<size_t>(o)];
      *out++ = s.flat;
      *out++ = s.channels;
      *out++ = s.height;
      *out++ = s.width;
    }
  });
}

// Writes two integers for each step: its variant and its blocks of input channels.
FGGP_EXPORT int fggp_program_tune(void* program, int isa, const int64_t* dims, double seconds,
                                  int64_t* variants, char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    Program& p = *static_cast<Program*>(program);
    tune(p, isa_at(isa), shapes_of(p, dims), seconds);
    for (const Step& s : p.steps) {
      *variants++ = s.variant.conv;
      *variants++ = s.variant.input_blocks;
    }
  });
}

// Writes the median microseconds of each step for one image of 0.5s on one thread, then those of
// writing the outputs: steps + 1 values.
FGGP_EXPORT int fggp_program_profile(const void* program, int isa, const int64_t* dims,
                                     int repeats, double* microseconds, char* error,
                                     size_t error_size) {
  return guarded(error, error_size, [&] {
    const Program& p = *static_cast<const Program*>(program);
    const std::vector<ValueShape> shapes = shapes_of(p, dims);
    Packings packings;
    const Execution execution(p, isa_at(isa), shapes, Sharing{}, packings);
    std::vector<std::vector<float>> in, out;
    for (const ValueShape& s : shapes) in.emplace_back(s.size(), 0.5f);
    for (const ValueShape& s : execution.outputs()) out.emplace_back(s.size());
    std::vector<const float*> from;
    std::vector<float*> to;
    for (const auto& v : in) from.push_back(v.data());
    for (auto& v : out) to.push_back(v.data());
    const Workspace workspace(execution.workspace_floats());
    for (double us : execution.profile({from.data(), to.data(), workspace.data()},
                                       std::max(repeats, 1)))
      *microseconds++ = us;
  });
}

// Writes what a variant computes at once: output channels, rows and columns of vectors.
FGGP_EXPORT int fggp_isa_variant_shape(int isa, int variant, int64_t* shape, char* error,
                                       size_t error_size) {
  return guarded(error, error_size, [&] {
    const FggpIsa& table = isa_at(isa);
    if (variant < 0 || variant >= table.n_conv) throw Error("no such variant");
    const FggpConvVariant& v = table.conv[variant];
    shape[0] = v.group;
    shape[1] = v.rows;
    shape[2] = v.cols;
  });
}
