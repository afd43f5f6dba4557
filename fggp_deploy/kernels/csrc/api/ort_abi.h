// The part of ONNX Runtime's C interface that this library uses, declared without its headers.
//
// No package on PyPI ships those headers, but the interface is append-only: OrtApi is a struct of
// function pointers whose order never changes, so a slot identifies a function. Slots are those
// of onnxruntime_c_api.h; all exist since ORT 1.20 (API version 20), which RegisterCustomOps asks
// for. OrtCustomOp is laid out as of version 16, the first whose creation and computation return
// a status; ORT reads no field beyond the version that a library declares.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ort {

constexpr uint32_t kApiVersion = 20;
constexpr uint32_t kCustomOpVersion = 16;

struct Status;
struct Options;
struct Domain;
struct KernelInfo;
struct KernelContext;
struct Value;
struct ShapeInfo;

struct ApiBase {
  const void* const* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
// 0 as an operator's input type means any type.
enum ElementType : int { kAny = 0, kFloat = 1, kUint8 = 2, kInt8 = 3, kUint16 = 4, kFloat16 = 10 };
enum Characteristic : int { kRequired = 0, kOptional = 1, kVariadic = 2 };

// A slot and the type of the function in it.
template <int Slot, class F>
struct Function;
template <int Slot, class R, class... A>
struct Function<Slot, R(A...)> {
  static R call(const void* const* api, A... args) {
    return reinterpret_cast<R (*)(A...)>(const_cast<void*>(api[Slot]))(args...);
  }
};

using CreateStatus = Function<0, Status*(int code, const char* message)>;
using CreateCustomOpDomain = Function<26, Status*(const char* name, Domain** out)>;
using CustomOpDomainAdd = Function<27, Status*(Domain*, const void* op)>;
using AddCustomOpDomain = Function<28, Status*(Options*, Domain*)>;
using GetTensorMutableData = Function<51, Status*(Value*, void** out)>;
using GetTensorElementType = Function<60, Status*(const ShapeInfo*, int* out)>;
using GetDimensionsCount = Function<61, Status*(const ShapeInfo*, size_t* out)>;
using GetDimensions = Function<62, Status*(const ShapeInfo*, int64_t* dims, size_t n)>;
using GetTensorShapeElementCount = Function<64, Status*(const ShapeInfo*, size_t* out)>;
using GetTensorTypeAndShape = Function<65, Status*(const Value*, ShapeInfo** out)>;
using KernelInfoGetAttributeInt64 = Function<86, Status*(const KernelInfo*, const char*, int64_t*)>;
using KernelContextGetInputCount = Function<88, Status*(const KernelContext*, size_t* out)>;
using KernelContextGetInput = Function<90, Status*(const KernelContext*, size_t, const Value** out)>;
using KernelContextGetOutput =
    Function<91, Status*(KernelContext*, size_t, const int64_t* dims, size_t n, Value** out)>;
using ReleaseStatus = Function<93, void(Status*)>;
using ReleaseTensorTypeAndShapeInfo = Function<99, void(ShapeInfo*)>;
using AddSessionConfigEntry = Function<130, Status*(Options*, const char* key, const char* value)>;
// With a null array: only the size.
using KernelInfoGetAttributeInt64s =
    Function<163, Status*(const KernelInfo*, const char*, int64_t* out, size_t* size)>;
using HasSessionConfigEntry = Function<237, Status*(const Options*, const char* key, int* out)>;
using KernelInfoGetConstantInput =
    Function<249, Status*(const KernelInfo*, size_t, int* is_constant, const Value** out)>;
using KernelContextParallelFor =
    Function<274, Status*(const KernelContext*, void (*fn)(void*, size_t), size_t total,
                          size_t batches, void* arg)>;

struct CustomOp {
  uint32_t version;
  void* (*CreateKernel)(const CustomOp*, const void* api, const KernelInfo*);
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  int (*GetInputType)(const CustomOp*, size_t);
  size_t (*GetInputTypeCount)(const CustomOp*);
  int (*GetOutputType)(const CustomOp*, size_t);
  size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void* kernel, KernelContext*);
  void (*KernelDestroy)(void* kernel);
  int (*GetInputCharacteristic)(const CustomOp*, size_t);
  int (*GetOutputCharacteristic)(const CustomOp*, size_t);
  int (*GetInputMemoryType)(const CustomOp*, size_t);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  Status* (*CreateKernelV2)(const CustomOp*, const void* api, const KernelInfo*, void** kernel);
  Status* (*KernelComputeV2)(void* kernel, KernelContext*);
  void* later[16];  // versions 17 and on; null
};

}  // namespace ort
