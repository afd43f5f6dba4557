// The custom operators of domain ai.fggp: SparseConv and SparseGemm, the same with int8 values,
// and Region_0 … Region_255.
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "api/ort_access.h"
#include "plan/runner.h"

namespace fggp {
namespace {

// MAX_REGIONS in runtime/regions/programs.py is the same. Each costs every new session about 50 us.
constexpr int kRegions = 256;

const FggpIsa& chosen_isa() {
  // For tests and benchmarks: a narrower instruction set than the best one.
  const char* wanted = std::getenv("FGGP_ISA");
  int n = 0;
  const FggpIsa* const* all = fggp_isas(&n);
  for (int i = 0; wanted && i < n; i++)
    if (std::strcmp(wanted, all[i]->name) == 0 && all[i]->supported()) return *all[i];
  return fggp_best_isa();
}

enum class Kind { kConv, kGemm, kRegion };

struct CustomOp : ort::CustomOp {
  OrtAccess ort{nullptr};
  Kind kind;
  Format format = Format::kGaps;
  std::string name;

  // Of a single operator: the parts of the weight, and the bias.
  size_t n_constants() const { return format == Format::kRice ? 5 : 3; }
};

const CustomOp* op_of(const ort::CustomOp* op) { return static_cast<const CustomOp*>(op); }

// One node of a model.
class Node {
 public:
  Node(const CustomOp& op, const ort::KernelInfo* info) : op_(op) {
    const int64_t threads = op.ort.integer(info, "threads", 0);
    if (threads < 0 || threads > 1024) throw Error("threads is " + std::to_string(threads));
    // Without it, as many as there are cores: a session seldom has more.
    sharing_.threads = threads ? static_cast<int>(threads) : usable_cores();
    n_constants_ = op.n_constants();
    read_code(info);
    // Region: the constants follow the inputs that change.
    std::vector<Tensor> constants;
    const size_t first = static_cast<size_t>(code_.size() > 1 ? code_[1] : 0);
    Tensor t;
    for (size_t i = first; constants.size() < n_constants_; i++) {
      if (!op.ort.constant(info, i, &t)) {
        if (op.kind == Kind::kRegion) throw Error("a weight is not a constant initializer");
        return;  // allowed for the single operators: their weights are decoded at each run
      }
      constants.push_back(t);
    }
    runner_ = std::make_shared<Runner>(parse_program(code_, constants), chosen_isa(), sharing_);
  }

  const CustomOp& op() const { return op_; }
  void compute(ort::KernelContext* context) const;

 private:
  void read_code(const ort::KernelInfo* info);

  const CustomOp& op_;
  Sharing sharing_;
  size_t n_constants_ = 0;
  std::vector<int64_t> code_;
  std::shared_ptr<Runner> runner_;
};

void Node::read_code(const ort::KernelInfo* info) {
  const OrtAccess& ort = op_.ort;
  if (op_.kind == Kind::kRegion) {
    code_ = ort.ints(info, "program", {});
    const int64_t n = ort.integer(info, "constants", -1);
    if (n < 0 || n > 1 << 20) throw Error("attribute constants is missing or wrong");
    if (code_.size() < 2 || code_[1] < 1 || code_[1] > 64)
      throw Error("attribute program is missing or wrong");
    n_constants_ = static_cast<size_t>(n);
    return;
  }
  const std::vector<int64_t> w = ort.ints(info, "weight_shape", {});
  Step step;
  step.format = op_.format;
  ConvShape& shape = step.shape;
  if (op_.kind == Kind::kConv) {
    const auto stride = ort.ints(info, "strides", {1, 1});
    const auto dilation = ort.ints(info, "dilations", {1, 1});
    const auto pads = ort.ints(info, "pads", {0, 0, 0, 0});
    const int64_t group = ort.integer(info, "group", 1);
    if (w.size() != 4 || stride.size() != 2 || dilation.size() != 2 || pads.size() != 4)
      throw Error("only two-dimensional convolutions are supported");
    if (group < 1 || group > 1 << 20 || w[1] < 1 || w[1] > 1 << 20)
      throw Error("weight_shape or group is out of range");
    step.op = Op::kConv;
    shape.cout = w[0];
    shape.cin = w[1] * group;
    shape.group = group;
    shape.kh = w[2];
    shape.kw = w[3];
    shape.stride_h = stride[0];
    shape.stride_w = stride[1];
    shape.dilation_h = dilation[0];
    shape.dilation_w = dilation[1];
    shape.top = pads[0];
    shape.left = pads[1];
    shape.bottom = pads[2];
    shape.right = pads[3];
  } else {
    if (w.size() != 2) throw Error("weight_shape must have two dimensions");
    step.op = Op::kGemm;
    shape.cout = w[0];
    shape.cin = w[1];
  }
  code_ = encode_program({1, {step}, {1}});
}

void Node::compute(ort::KernelContext* context) const {
  const OrtAccess& ort = op_.ort;
  std::shared_ptr<Runner> runner = runner_;
  if (!runner) {
    std::vector<Tensor> constants;
    for (size_t i = 1; i <= n_constants_; i++) constants.push_back(ort.input(context, i).tensor);
    runner = std::make_shared<Runner>(parse_program(code_, constants), chosen_isa(), sharing_);
  }
  std::vector<ValueShape> shapes;
  std::vector<const float*> inputs;
  std::vector<int64_t> leading;  // leading dimensions that count as images
  const bool on_rows = is_on_rows(runner->program());
  for (int i = 0; i < runner->program().n_inputs; i++) {
    const OrtTensor t = ort.input(context, static_cast<size_t>(i));
    const std::vector<int64_t>& d = t.dims;
    if (t.tensor.type != Type::kFloat) throw Error("an input is not float");
    ValueShape s;
    std::vector<int64_t> lead;
    if (!on_rows && d.size() == 4) {
      s = {false, false, d[1], d[2], d[3]};
      lead = {d[0]};
    } else if (on_rows ? !d.empty() : op_.kind == Kind::kRegion && d.size() == 2) {
      s = {true, false, d.back(), 1, 1};
      lead.assign(d.begin(), d.end() - 1);
    } else {
      throw Error("an input has rank " + std::to_string(d.size()));
    }
    if (i > 0 && lead != leading) throw Error("two inputs differ in their batch");
    leading = lead;
    shapes.push_back(s);
    inputs.push_back(static_cast<const float*>(t.tensor.data));
  }
  const std::vector<ValueShape> made = runner->outputs(shapes);
  std::vector<float*> outputs;
  for (size_t k = 0; k < made.size(); k++) {
    const ValueShape& s = made[k];
    std::vector<int64_t> dims = leading;
    dims.push_back(s.channels);
    if (!s.flat || s.keeps_rank) dims.insert(dims.end(), {s.height, s.width});
    outputs.push_back(ort.output(context, k, dims));
  }
  int64_t n = 1;
  for (int64_t d : leading) n *= d;  // the tensor exists, so this cannot overflow

  struct Pool {
    const OrtAccess* ort;
    ort::KernelContext* context;
  } pool{&ort, context};
  Threads threads;
  threads.self = &pool;
  threads.run = [](void* self, size_t n, void (*fn)(void*, size_t), void* arg) {
    const Pool& p = *static_cast<Pool*>(self);
    p.ort->call<ort::KernelContextParallelFor>(
        static_cast<const ort::KernelContext*>(p.context), fn, n, size_t{0}, arg);
  };
  runner->run(shapes, n, inputs.data(), outputs.data(), threads);
}

void fill(CustomOp& op, const OrtAccess& access, Kind kind, std::string name,
          Format format = Format::kGaps) {
  std::memset(static_cast<ort::CustomOp*>(&op), 0, sizeof(ort::CustomOp));
  op.ort = access;
  op.kind = kind;
  op.format = format;
  op.name = std::move(name);
  op.version = ort::kCustomOpVersion;
  op.GetName = [](const ort::CustomOp* o) { return op_of(o)->name.c_str(); };
  op.GetExecutionProviderType = [](const ort::CustomOp*) { return "CPUExecutionProvider"; };
  op.GetInputType = [](const ort::CustomOp* o, size_t i) -> int {
    // The parts of a weight may have several types, which are checked when the kernel is made.
    if (op_of(o)->kind == Kind::kRegion) return ort::kAny;
    return i > 0 && i < op_of(o)->n_constants() ? ort::kAny : ort::kFloat;
  };
  op.GetInputTypeCount = [](const ort::CustomOp* o) -> size_t {
    return op_of(o)->kind == Kind::kRegion ? 1 : 1 + op_of(o)->n_constants();
  };
  op.GetOutputType = [](const ort::CustomOp*, size_t) -> int { return ort::kFloat; };
  op.GetOutputTypeCount = [](const ort::CustomOp*) -> size_t { return 1; };
  op.GetInputCharacteristic = [](const ort::CustomOp* o, size_t) -> int {
    return op_of(o)->kind == Kind::kRegion ? ort::kVariadic : ort::kRequired;
  };
  op.GetOutputCharacteristic = [](const ort::CustomOp* o, size_t) -> int {
    return op_of(o)->kind == Kind::kRegion ? ort::kVariadic : ort::kRequired;
  };
  op.GetInputMemoryType = [](const ort::CustomOp*, size_t) -> int { return 0; };
  op.GetVariadicInputMinArity = [](const ort::CustomOp*) -> int { return 1; };
  op.GetVariadicInputHomogeneity = [](const ort::CustomOp*) -> int { return 0; };
  op.GetVariadicOutputMinArity = [](const ort::CustomOp*) -> int { return 1; };
  op.GetVariadicOutputHomogeneity = [](const ort::CustomOp*) -> int { return 1; };
  op.CreateKernelV2 = [](const ort::CustomOp* o, const void*, const ort::KernelInfo* info,
                         void** kernel) {
    const CustomOp& self = *op_of(o);
    return self.ort.guarded(self.name.c_str(), [&] { *kernel = new Node(self, info); });
  };
  op.KernelComputeV2 = [](void* kernel, ort::KernelContext* context) {
    const Node& node = *static_cast<const Node*>(kernel);
    return node.op().ort.guarded(node.op().name.c_str(), [&] { node.compute(context); });
  };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Node*>(kernel); };
}

// The operators of one ONNX Runtime in this process. Sessions point to them, so they are never freed.
struct Registration {
  CustomOp ops[4 + kRegions];
  ort::Domain* domain = nullptr;

  explicit Registration(const OrtAccess& access) {
    fill(ops[0], access, Kind::kConv, "SparseConv");
    fill(ops[1], access, Kind::kGemm, "SparseGemm");
    fill(ops[2], access, Kind::kConv, "SparseConv8", Format::kRice);
    fill(ops[3], access, Kind::kGemm, "SparseGemm8", Format::kRice);
    for (int i = 0; i < kRegions; i++)
      fill(ops[4 + i], access, Kind::kRegion, "Region_" + std::to_string(i));
    access.call<ort::CreateCustomOpDomain>("ai.fggp", &domain);
    for (CustomOp& op : ops)
      access.call<ort::CustomOpDomainAdd>(domain,
                                          static_cast<const void*>(static_cast<ort::CustomOp*>(&op)));
  }
};

}  // namespace
}  // namespace fggp

FGGP_EXPORT ort::Status* RegisterCustomOps(ort::Options* options, const ort::ApiBase* base) {
  using namespace fggp;
  const void* const* api = base->GetApi(ort::kApiVersion);
  if (!api) {
    const void* const* oldest = base->GetApi(1);
    return oldest ? ort::CreateStatus::call(oldest, ort::kFail,
                                            "fggp-deploy needs ONNX Runtime 1.20 or newer")
                  : nullptr;
  }
  const OrtAccess access(api);
  return access.guarded("RegisterCustomOps", [&] {
    // ONNX Runtime would refuse the session with "Domain already set in registry".
    const char* mark = "fggp.registered";
    int again = 0;
    const ort::Options* given = options;
    access.call<ort::HasSessionConfigEntry>(given, mark, &again);
    if (again)
      throw Error("the domain ai.fggp is registered in these session options already; register "
                  "libfggp_kernels once");
    static std::mutex mutex;
    static std::map<const void*, Registration*> registrations;
    const std::lock_guard<std::mutex> lock(mutex);
    Registration*& mine = registrations[api];
    if (!mine) mine = new Registration(access);
    access.call<ort::AddCustomOpDomain>(options, mine->domain);
    access.call<ort::AddSessionConfigEntry>(options, mark, "1");
  });
}
