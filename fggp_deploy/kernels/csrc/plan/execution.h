// A program planned for one input size: layouts chosen, weights packed, buffers placed.
//
// It computes one image, or a group of four. Planes of four tiles then hold the whole group, and an action
// on them computes all four images; other actions run once for each image. Layouts, blocks and the order of
// all sums are those of one image, so the results have the same bits.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "plan/conv_plan.h"
#include "program/program.h"
#include "plan/rearrangement.h"
#include "plan/threads.h"

namespace fggp {

// Memory for one running image.
class Workspace {
 public:
  explicit Workspace(size_t floats);
  float* data() const { return aligned_; }

 private:
  std::unique_ptr<float[]> memory_;
  float* aligned_ = nullptr;
};

class DepthwisePlan;

class Execution {
 public:
  static constexpr int kGroup = 4;
  // `packings` holds the weights that executions of the same program share; `images` is 1 or kGroup.
  // Throws an Error if the shapes do not fit the program.
  Execution(const Program& program, const FggpIsa& isa, const std::vector<ValueShape>& inputs,
            const Sharing& sharing, Packings& packings, int images = 1);
  int images() const { return images_; }
  // Whether an execution of a group takes less time per image than this one.
  bool group_pays() const;
  const std::vector<ValueShape>& outputs() const { return output_shapes_; }
  size_t workspace_floats() const { return arena_; }
  // The number of threads that pays for this many images or groups.
  int workers(size_t images) const { return sharing_.workers(work_ * static_cast<double>(images)); }
  // Where the inputs and outputs of an image or a group lie, contiguous [C, H, W] or [C] for each image,
  // and its memory.
  struct Image {
    const float* const* inputs;
    float* const* outputs;
    float* workspace;
    size_t index = 0;  // within the group
  };
  // One image or group on this thread. Safe to call from many threads at once.
  void run(const Image& image) const;
  // Some images at once, but no groups, whose steps the threads share. Returns whether another thread
  // than this one took part.
  bool run(const std::vector<Image>& images, const Threads& threads) const;

  // Median microseconds of each step over `repeats` runs on this thread, then those of writing the
  // outputs: steps + 1 values. A change of layout counts for the step that asks for it, and two
  // steps that run as one for the first of them.
  std::vector<double> profile(const Image& image, int repeats) const;

  // For the tuner: the plan of each Conv step, null for other steps.
  const ConvPlan* conv(size_t step) const { return conv_of_step_[step]; }

 private:
  struct Buffer {
    size_t floats = 0, offset = 0;
    size_t step = 0;  // between the images of a group; 0: one place for all
    size_t first = 0, last = 0;  // actions that write and read it
    int input = -1, output = -1;  // or: the program's input or output of that number
  };
  struct Place {  // a value in one of its layouts
    Layout layout;
    int buffer;
    bool ready;
  };
  struct Value {
    ValueShape shape;
    int row_major = -1;  // buffer, -1: none
    std::vector<Place> places;
    bool in_layout = false;
    Layout own;  // without halo; int8x4 if there is a scale
    float scale = 0;  // 0: floats
    int zero_point = 0;  // other than 0 only for the value of a Round
    int rounds = -1;  // of a Round: the value that it quantizes, in each layout that is asked for
    // Whether zero bits stand for 0, so that the int8x4 may be pooled, added and moved.
    bool written_as_int8x4() const { return scale != 0.0f && rounds < 0; }
    int readers = 0;  // steps, and one for each output
  };
  // Runs the items [first, last) of an action.
  using Run = std::function<void(const Image&, int first, int last)>;
  struct Action {
    bool each;  // it runs once for each image of a group
    std::vector<int> borders;  // of its parts, which may run at once
    Run run;
    int parts() const { return static_cast<int>(borders.size()) - 1; }
    void run_part(const Image& image, int part) const {
      const auto i = static_cast<size_t>(part);
      run(image, borders[i], borders[i + 1]);
    }
    // All parts as one, which is faster than one after the other.
    void run_whole(const Image& image) const { run(image, borders.front(), borders.back()); }
  };
  class Actions;  // of some images, as the stages of a section

  // execution.cpp: the layout of each value, and the buffers that hold it.
  Program fitted(const Program& program);
  void share_lanes();
  void check_layouts() const;
  void plan_layouts(const Program& program);
  ConvShape window(const Step& s);
  void choose_own(const Program& program);
  void adopt_tiles(const Step& s, int made);
  bool has_tiles(int value, const Layout& wanted);
  void need(int value, const Layout& wanted);
  Value& value(int i) { return values_[static_cast<size_t>(i)]; }
  int find(int value, const Layout& wanted, Layout* found);
  int flat(int value);
  // buffers.cpp: their memory, and its reuse.
  int new_buffer(size_t floats, int images);  // a place for all images of a group, or one for each
  int new_row_major(int value);
  int new_own(int value);
  int touch(int buffer);  // marks that the action being made uses it
  float* address(const Image& c, int buffer) const;
  const float* source(const Image& c, int buffer) const;
  size_t image_step(const Layout& l, int buffer) const;
  size_t end_of_each(size_t action) const;
  void plan_copies(Buffer& b);
  void place_buffers();
  // int8x4.cpp: which steps read int8x4, and conversions between floats and int8x4.
  bool multiplies_int8(const Step& s);
  bool reads_int8x4(const Step& s);
  Layout input_of(const Step& s, const Layout& out);
  Layout residual_of(const Step& s, const Layout& out);
  Layout floats_of(int value);
  int to_floats(int buffer, const Layout& from, const Value& value);
  int to_int8x4(int buffer, const Layout& floats, const Value& value);
  int begin_floats(int out);
  void end_floats(int out, int y);
  // actions.cpp: what each step does; `out` is the value that it makes.
  void plan_actions(const Program& program);
  int cut(int images, double work);
  // An action that computes this many images at once: on `n` items, with this work for each image.
  void add_parts(int images, int n, double work, Run run);
  void add_action(int images, std::vector<int> borders, Run run);
  struct Planes {  // of a value in a buffer
    int buffer;
    size_t plane;  // floats of each
    int images = 1;
    size_t lanes = 0;  // between the images, if there are several
  };
  static Planes planes_of(const Layout& l, int buffer);
  void add_rearrangement(Rearrangement how, int channels, const Planes& x, const Planes& y);
  void add_pack(const Layout& to, int x, int y);
  ConvPlan* make_conv(const Step& s, int out, int* x, int* r);
  void add_conv(const Step& s, size_t step, int out);
  bool can_fuse(const Step& s, const Step& next, int out);
  void add_conv_depthwise(const Step& s, const Step& next, size_t step, int out);
  std::shared_ptr<DepthwisePlan> make_depthwise(const Step& s, const ConvShape& shape,
                                                const Layout& from, int out, int* r);
  void add_depthwise(const Step& s, const ConvShape& shape, int out);
  void add_flat_sum(const Step& s, int out);
  void add_pool(const Step& s, int out);
  void add_global_average(const Step& s, int out);
  void add_gemm(const Step& s, int out);
  void add_output(int value, size_t index);

  const FggpIsa& isa_;
  const Sharing sharing_;
  const int images_;
  Packings& packings_;  // only used while planning
  std::vector<int> outputs_;
  std::vector<Value> values_;
  std::vector<Buffer> buffers_;
  std::vector<Action> actions_;
  std::vector<size_t> last_action_;  // of each step: one past it
  std::vector<std::unique_ptr<ConvPlan>> convs_;
  std::vector<const ConvPlan*> conv_of_step_;
  std::vector<ValueShape> output_shapes_;
  size_t arena_ = 0;
  double work_ = 0;  // of an image or a group, in multiply-adds
  double conv_vectors_ = 0, shareable_vectors_ = 0;  // vectors multiplied; those in planes of four tiles
};

}  // namespace fggp
