// Runs a packed or compiled model on the inputs of its self-test and prints one row of logits per image.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "session_abi.h"

namespace {

const void* const* api;

template <class F, class... A>
void check(A... args) {
  if (ort::Status* status = F::call(api, args...)) {
    const std::string message = ort::GetErrorMessage::call(api, status);
    ort::ReleaseStatus::call(api, status);
    throw std::runtime_error(message);
  }
}

// Every handle is released by its own slot.
template <class T, class Release>
struct Deleter {
  void operator()(T* handle) const { Release::call(api, handle); }
};
template <class T, class Release>
using Handle = std::unique_ptr<T, Deleter<T, Release>>;

using Environment = Handle<ort::Env, ort::ReleaseEnv>;
using Options = Handle<ort::Options, ort::ReleaseSessionOptions>;
using Session = Handle<ort::Session, ort::ReleaseSession>;
using MemoryInfo = Handle<ort::MemoryInfo, ort::ReleaseMemoryInfo>;
using Value = Handle<ort::Value, ort::ReleaseValue>;
using TypeInfo = Handle<ort::TypeInfo, ort::ReleaseTypeInfo>;
using ShapeInfo = Handle<ort::ShapeInfo, ort::ReleaseTensorTypeAndShapeInfo>;

template <class H, class F, class... A>
H make(A... args) {
  typename H::pointer handle = nullptr;
  check<F>(args..., &handle);
  return H(handle);
}

// Element i of the self-test's inputs: see docs/format.md.
float probe(uint32_t h) {
  h ^= h >> 16;
  h *= 0x85ebca6b;
  h ^= h >> 13;
  h *= 0xc2b2ae35;
  h ^= h >> 16;
  return static_cast<float>(h >> 8) / 8388608.0f - 1.0f;
}

template <class F>
std::string name(const Session& session) {
  ort::Allocator* allocator = nullptr;
  check<ort::GetDefaultAllocator>(&allocator);
  char* text = nullptr;
  check<F>(session.get(), size_t{0}, allocator, &text);
  const std::string result = text;
  check<ort::AllocatorFree>(allocator, static_cast<void*>(text));
  return result;
}

std::vector<int64_t> dimensions(const ort::ShapeInfo* info) {
  size_t rank = 0;
  check<ort::GetDimensionsCount>(info, &rank);
  std::vector<int64_t> dims(rank);
  check<ort::GetDimensions>(info, dims.data(), rank);
  return dims;
}

int run(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "usage: run_model MODEL KERNELS|none THREADS BATCH SEED\n");
    return 2;
  }
  const std::string kernels = argv[2];
  const int threads = std::atoi(argv[3]);
  const int64_t batch = std::atoll(argv[4]);
  const auto seed = static_cast<uint32_t>(std::strtoul(argv[5], nullptr, 10));
  if (threads < 1 || batch < 1 || batch > 1 << 16) throw std::runtime_error("THREADS or BATCH");

  const auto environment = make<Environment, ort::CreateEnv>(int{ort::kError}, "run_model");
  const auto options = make<Options, ort::CreateSessionOptions>();
  check<ort::SetIntraOpNumThreads>(options.get(), threads);
  if (kernels != "none") {  // the one call that makes the file fast
    void* handle = nullptr;
    check<ort::RegisterCustomOpsLibrary>(options.get(), kernels.c_str(), &handle);
  }
  const auto session = make<Session, ort::CreateSession>(
      static_cast<const ort::Env*>(environment.get()), static_cast<const char*>(argv[1]),
      static_cast<const ort::Options*>(options.get()));

  const auto type = make<TypeInfo, ort::SessionGetInputTypeInfo>(
      static_cast<const ort::Session*>(session.get()), size_t{0});
  const ort::ShapeInfo* image = nullptr;
  check<ort::CastTypeInfoToTensorInfo>(static_cast<const ort::TypeInfo*>(type.get()), &image);
  if (!image) throw std::runtime_error("the input is not a tensor");
  std::vector<int64_t> dims = dimensions(image);
  if (dims.empty()) throw std::runtime_error("the input has no dimensions");
  dims[0] = batch;
  size_t count = 1;
  for (int64_t d : dims) {
    if (d < 1 || count > (size_t{1} << 28) / static_cast<size_t>(d))
      throw std::runtime_error("the input's size is not known, or too large");
    count *= static_cast<size_t>(d);
  }
  std::vector<float> x(count);
  for (size_t i = 0; i < count; i++) x[i] = probe(seed + static_cast<uint32_t>(i));

  const auto memory = make<MemoryInfo, ort::CreateCpuMemoryInfo>(int{ort::kArena}, 0);
  const auto input = make<Value, ort::CreateTensorWithData>(
      static_cast<const ort::MemoryInfo*>(memory.get()), static_cast<void*>(x.data()),
      count * sizeof(float), static_cast<const int64_t*>(dims.data()), dims.size(),
      int{ort::kFloat});
  const std::string from = name<ort::SessionGetInputName>(session);
  const std::string to = name<ort::SessionGetOutputName>(session);
  const char *inputs[] = {from.c_str()}, *outputs[] = {to.c_str()};
  const ort::Value* values[] = {input.get()};
  const auto logits = make<Value, ort::Run>(
      session.get(), static_cast<const void*>(nullptr), static_cast<const char* const*>(inputs),
      static_cast<const ort::Value* const*>(values), size_t{1},
      static_cast<const char* const*>(outputs), size_t{1});

  const auto shape = make<ShapeInfo, ort::GetTensorTypeAndShape>(
      static_cast<const ort::Value*>(logits.get()));
  const std::vector<int64_t> size = dimensions(shape.get());
  void* data = nullptr;
  check<ort::GetTensorMutableData>(logits.get(), &data);
  const auto* y = static_cast<const float*>(data);
  if (size.size() != 2) throw std::runtime_error("the output is not [batch, classes]");
  for (int64_t i = 0; i < size[0]; i++)
    for (int64_t j = 0; j < size[1]; j++)
      std::printf("%.9g%c", static_cast<double>(y[i * size[1] + j]), j + 1 < size[1] ? ' ' : '\n');
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  api = OrtGetApiBase()->GetApi(ort::kApiVersion);
  if (!api) {
    std::fprintf(stderr, "error: ONNX Runtime 1.20 or newer is needed\n");
    return 3;
  }
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 2;
  }
}
