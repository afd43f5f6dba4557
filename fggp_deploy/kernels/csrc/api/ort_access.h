// Calls ONNX Runtime's C interface: failures become exceptions, and tensors our own types.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "api/ort_abi.h"
#include "program/error.h"
#include "program/weights.h"

namespace fggp {

// A status that ONNX Runtime returned, to be passed back to it.
struct OrtFailure {
  ort::Status* status;
};

struct OrtTensor {
  Tensor tensor;
  std::vector<int64_t> dims;
};

class OrtAccess {
 public:
  explicit OrtAccess(const void* const* api) : api_(api) {}

  template <class F, class... A>
  void call(A... args) const {
    if (ort::Status* s = F::call(api_, args...)) throw OrtFailure{s};
  }
  // Runs `f`, and returns an exception of it as a status; null if there was none.
  template <class F>
  ort::Status* guarded(const char* name, const F& f) const noexcept {
    try {
      f();
      return nullptr;
    } catch (const OrtFailure& e) {
      return e.status;
    } catch (const Error& e) {
      return status(ort::kInvalidArgument, name, e.what());
    } catch (const std::exception& e) {
      return status(ort::kFail, name, e.what());
    } catch (...) {
      return status(ort::kFail, name, "unknown failure");
    }
  }

  OrtTensor view(const ort::Value* value) const;
  // False if input `index` is not a constant.
  bool constant(const ort::KernelInfo* info, size_t index, Tensor* out) const;
  std::vector<int64_t> ints(const ort::KernelInfo* info, const char* name,
                            std::vector<int64_t> otherwise) const;
  int64_t integer(const ort::KernelInfo* info, const char* name, int64_t otherwise) const;
  OrtTensor input(const ort::KernelContext* context, size_t index) const;
  float* output(ort::KernelContext* context, size_t index, const std::vector<int64_t>& dims) const;

 private:
  ort::Status* status(int code, const char* name, const char* what) const noexcept;
  const void* const* api_;
};

}  // namespace fggp
