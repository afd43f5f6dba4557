// One convolution, bound to layouts and to a compiled variant: weights packed, offsets resolved.
#pragma once
#include <memory>
#include <utility>
#include <vector>

#include "plan/layout.h"
#include "plan/packed_rows.h"
#include "program/step.h"

namespace fggp {

// The layout that a convolution (or pooling) writes, and the one that it then must read.
Layout output_layout(const ConvShape& s, int64_t in_h, int64_t in_w);
Layout input_layout(const ConvShape& s, const Layout& out, int64_t in_h, int64_t in_w);

struct ConvPlan {
  const FggpIsa* isa = nullptr;
  ConvShape shape;
  Layout in, out, residual;
  Activation activation{};
  // The scales of int8x4. Only if the input is int8x4 may the output or the residual be.
  float in_scale = 0, out_scale = 0, residual_scale = 0;
  int in_zero_point = 0;

  using Rows = Packings::Rows;
  // The rows that the kernels multiply: those packed, or the same in groups of four input channels if
  // the input is int8x4.
  Rows multiplied() const;
  // Throws an Error if an offset does not fit; every offset made here stays inside its plane.
  void pack(const Rows& rows, const std::vector<float>& bias, Variant v, Packings& packings);
  // Once packed: the same weights, `multiplied`, for another variant.
  void arrange(const SparseRows& rows, Variant v);
  // Computes output channels [first, last) with their halos: whole groups of the variant's, and
  // multiples of four if the output or the residual is int8x4. `y` starts at output channel `origin`.
  void run(const float* x, const float* r, float* y, int first, int last, int origin = 0) const;
  // Borders of `n` runs of output channels with about the same work.
  std::vector<int> split(int n) const;
  // The blocks of a plane that a kernel computes at once, one after the other.
  int blocks() const;
  // Output channels [first, last) of one block, and the part of their halos that follows from it.
  void run_block(int block, const float* x, const float* r, float* y, int first, int last) const;
  Variant variant() const { return variant_; }
  int group() const { return form(variant_.conv).group; }
  // The variants that are worth measuring for this number of non-zeros, `multiplied`; the cost model
  // puts the most promising first.
  std::vector<Variant> ranked(size_t nonzeros) const;

 private:
  bool fits(const FggpConvVariant& v) const;
  PackedRows order(const SparseRows& rows, Variant v);
  std::pair<int, int> planes(int first, int last) const;  // of the output, for these channels
  void compute(int block, const float* x, const float* r, float* y, int first, int last,
               int origin) const;
  int n_forms() const { return in.int8x4 ? fggp_int8x4(*isa).n_conv : isa->n_conv; }
  const FggpConvVariant& form(int i) const {
    return (in.int8x4 ? fggp_int8x4(*isa).conv : isa->conv)[i];
  }

  Variant variant_;
  int channels_per_block_ = 0, n_groups_ = 0;
  std::vector<uint16_t> offset_;
  Rows rows_;
  std::shared_ptr<const PackedRows> packed_;
  std::vector<float> bias_, factor_;
  std::vector<int32_t> start_;
  std::vector<uint32_t> base_;  // [block][group]: the first input that its offsets count from
  std::vector<uint16_t> mask_;
  Halo halo_;
  std::vector<size_t> halo_of_block_;  // the first halo vector that follows from each block
};

}  // namespace fggp
