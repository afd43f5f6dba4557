// The one exception of the library.
#pragma once
#include <stdexcept>

namespace fggp {

// An error in a model or a call. It is caught at the C interface and reported to ONNX Runtime
// as a status.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace fggp
