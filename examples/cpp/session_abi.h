// The slots of ONNX Runtime's C interface that a program needs to open sessions: see ort_abi.h.
#pragma once
#include "api/ort_abi.h"

namespace ort {

struct Env;
struct Session;
struct MemoryInfo;
struct Allocator;
struct TypeInfo;

enum LoggingLevel : int { kError = 3 };
enum AllocatorType : int { kArena = 1 };

using GetErrorMessage = Function<2, const char*(const Status*)>;
using CreateEnv = Function<3, Status*(int level, const char* log_id, Env** out)>;
using CreateSession = Function<7, Status*(const Env*, const char* path, const Options*, Session**)>;
using Run = Function<9, Status*(Session*, const void* run_options, const char* const* input_names,
                                const Value* const* inputs, size_t n_inputs,
                                const char* const* output_names, size_t n_outputs, Value** outputs)>;
using CreateSessionOptions = Function<10, Status*(Options** out)>;
using SetIntraOpNumThreads = Function<24, Status*(Options*, int threads)>;
using RegisterCustomOpsLibrary =
    Function<29, Status*(Options*, const char* path, void** handle)>;
using SessionGetInputTypeInfo = Function<33, Status*(const Session*, size_t, TypeInfo** out)>;
using SessionGetInputName = Function<36, Status*(const Session*, size_t, Allocator*, char** out)>;
using SessionGetOutputName = Function<37, Status*(const Session*, size_t, Allocator*, char** out)>;
using CreateTensorWithData =
    Function<49, Status*(const MemoryInfo*, void* data, size_t n_bytes, const int64_t* dims,
                         size_t n_dims, int element_type, Value** out)>;
using CastTypeInfoToTensorInfo = Function<55, Status*(const TypeInfo*, const ShapeInfo** out)>;
using CreateCpuMemoryInfo = Function<69, Status*(int allocator_type, int memory_type, MemoryInfo**)>;
using AllocatorFree = Function<76, Status*(Allocator*, void*)>;
using GetDefaultAllocator = Function<78, Status*(Allocator** out)>;
using ReleaseEnv = Function<92, void(Env*)>;
using ReleaseMemoryInfo = Function<94, void(MemoryInfo*)>;
using ReleaseSession = Function<95, void(Session*)>;
using ReleaseValue = Function<96, void(Value*)>;
using ReleaseTypeInfo = Function<98, void(TypeInfo*)>;
using ReleaseSessionOptions = Function<100, void(Options*)>;

}  // namespace ort

extern "C" const ort::ApiBase* OrtGetApiBase();
