#include "api/ort_access.h"

namespace fggp {
namespace {

Type type_of(int element) {
  switch (element) {
    case ort::kFloat:
      return Type::kFloat;
    case ort::kFloat16:
      return Type::kFloat16;
    case ort::kInt8:
      return Type::kInt8;
    case ort::kUint8:
      return Type::kUint8;
    case ort::kUint16:
      return Type::kUint16;
    default:
      throw Error("a tensor has ONNX element type " + std::to_string(element) +
                  "; float, float16, int8, uint8 and uint16 are known");
  }
}

}  // namespace

ort::Status* OrtAccess::status(int code, const char* name, const char* what) const noexcept {
  char message[512];
  snprintf(message, sizeof message, "ai.fggp %s: %s", name, what);
  return ort::CreateStatus::call(api_, code, message);
}

OrtTensor OrtAccess::view(const ort::Value* value) const {
  if (!value) throw Error("an input is missing");
  ort::ShapeInfo* info = nullptr;
  call<ort::GetTensorTypeAndShape>(value, &info);
  struct Release {
    const void* const* api;
    ort::ShapeInfo* info;
    ~Release() { ort::ReleaseTensorTypeAndShapeInfo::call(api, info); }
  } release{api_, info};
  int element = 0;
  size_t rank = 0;
  call<ort::GetTensorElementType>(static_cast<const ort::ShapeInfo*>(info), &element);
  call<ort::GetDimensionsCount>(static_cast<const ort::ShapeInfo*>(info), &rank);
  OrtTensor t;
  t.dims.resize(rank);
  call<ort::GetDimensions>(static_cast<const ort::ShapeInfo*>(info), t.dims.data(), rank);
  call<ort::GetTensorShapeElementCount>(static_cast<const ort::ShapeInfo*>(info), &t.tensor.count);
  t.tensor.type = type_of(element);
  void* data = nullptr;
  call<ort::GetTensorMutableData>(const_cast<ort::Value*>(value), &data);
  t.tensor.data = data;
  return t;
}

bool OrtAccess::constant(const ort::KernelInfo* info, size_t index, Tensor* out) const {
  int is_constant = 0;
  const ort::Value* value = nullptr;
  call<ort::KernelInfoGetConstantInput>(info, index, &is_constant, &value);
  if (!is_constant) return false;
  *out = view(value).tensor;
  return true;
}

std::vector<int64_t> OrtAccess::ints(const ort::KernelInfo* info, const char* name,
                                     std::vector<int64_t> otherwise) const {
  size_t size = 0;
  if (ort::Status* s = ort::KernelInfoGetAttributeInt64s::call(
          api_, info, name, static_cast<int64_t*>(nullptr), &size)) {
    ort::ReleaseStatus::call(api_, s);
    return otherwise;
  }
  std::vector<int64_t> values(size);
  call<ort::KernelInfoGetAttributeInt64s>(info, name, values.data(), &size);
  return values;
}

int64_t OrtAccess::integer(const ort::KernelInfo* info, const char* name,
                           int64_t otherwise) const {
  int64_t value = otherwise;
  if (ort::Status* s = ort::KernelInfoGetAttributeInt64::call(api_, info, name, &value)) {
    ort::ReleaseStatus::call(api_, s);
    return otherwise;
  }
  return value;
}

OrtTensor OrtAccess::input(const ort::KernelContext* context, size_t index) const {
  const ort::Value* value = nullptr;
  call<ort::KernelContextGetInput>(context, index, &value);
  return view(value);
}

float* OrtAccess::output(ort::KernelContext* context, size_t index,
                         const std::vector<int64_t>& dims) const {
  ort::Value* value = nullptr;
  call<ort::KernelContextGetOutput>(context, index, dims.data(), dims.size(), &value);
  if (!value) throw Error("an output is missing");
  void* data = nullptr;
  call<ort::GetTensorMutableData>(value, &data);
  return static_cast<float*>(data);
}

}  // namespace fggp
