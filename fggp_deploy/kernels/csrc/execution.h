// A program planned for one input size: layouts chosen, weights packed, buffers placed.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "program.h"

namespace fggp {

// Somebody's threads: calls fn(arg, i) for every i below n, and returns when all are done.
struct Threads {
  void (*run)(void* self, size_t n, void (*fn)(void*, size_t), void* arg) = nullptr;
  void* self = nullptr;
};

// Memory for one running image.
class Workspace {
 public:
  explicit Workspace(size_t floats);
  float* data() const { return aligned_; }

 private:
  std::unique_ptr<float[]> memory_;
  float* aligned_ = nullptr;
};

class Execution {
 public:
  // `tasks`: into how many pieces a large step is cut; 1 without threads. Throws an Error when
  // the shapes do not fit the program.
  Execution(const Program& program, const FggpIsa& isa, const std::vector<ValueShape>& inputs,
            int tasks);
  const std::vector<ValueShape>& outputs() const { return output_shapes_; }
  size_t workspace_floats() const { return arena_; }
  // One image: contiguous [C, H, W] or [C] in and out. Safe to call from many threads at once,
  // each with its own workspace.
  void run(const float* const* inputs, float* const* outputs, float* workspace,
           const Threads& threads) const;

  // Median microseconds of each step over `repeats` runs on this thread, then those of writing the
  // outputs: steps + 1 values. A change of layout counts for the step that asks for it.
  std::vector<double> profile(const float* const* inputs, float* const* outputs, float* workspace,
                              int repeats) const;

  // For the tuner: the plan of each Conv step, null for other steps.
  const ConvPlan* conv(size_t step) const { return conv_of_step_[step]; }

 private:
  struct Buffer {
    size_t floats = 0, offset = 0;
    size_t first = 0, last = 0;  // actions that write and read it
    int input = -1;              // or: the program's input of that number
  };
  struct Place {  // where a value can be found in a certain layout
    Layout layout;
    int buffer;
    bool ready;
  };
  struct Value {
    ValueShape shape;
    int row_major = -1;  // buffer, -1: none
    std::vector<Place> places;
    bool in_layout = false;
    Layout own;
  };
  struct Context {
    const float* const* inputs;
    float* const* outputs;
    float* workspace;
    const Threads* threads;
  };
  using Action = std::function<void(const Context&)>;

  void plan_layouts(const Program& program);
  void plan_actions(const Program& program, const FggpIsa& isa, int tasks);
  void place_buffers();
  int new_buffer(size_t floats);
  int touch(int buffer);  // marks that the action being made uses it
  float* address(const Context& c, int buffer) const;
  const float* source(const Context& c, int buffer) const;
  int find(int value, const Layout& wanted, const FggpIsa& isa);
  int flat(int value, const FggpIsa& isa);
  void need(int value, const Layout& wanted);

  std::vector<Value> values_;
  std::vector<Buffer> buffers_;
  std::vector<Action> actions_;
  std::vector<size_t> last_action_;  // of each step: one past it
  std::vector<std::unique_ptr<ConvPlan>> convs_;
  std::vector<const ConvPlan*> conv_of_step_;
  std::vector<ValueShape> output_shapes_;
  size_t arena_ = 0;
};

}  // namespace fggp
