// A fixed rearrangement of planes of floats: y[i] = index[i] < 0 ? 0 : x[index[i]].
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "isa/isa.h"

namespace fggp {

class Rearrangement {
 public:
  // `index` has one entry for each float of a plane of y, and all are below `source`, the floats
  // of a plane of x.
  Rearrangement(const FggpIsa& isa, std::vector<int32_t> index, size_t source);

  // `channels` planes, `x_plane` and `y_plane` floats apart.
  void run(const float* x, size_t x_plane, float* y, size_t y_plane, int channels) const;

  // About how long a plane takes, in kernel instructions.
  double cost() const { return cost_; }

 private:
  void plan_shuffle(size_t source);

  const FggpIsa& isa_;
  std::vector<int32_t> index_;
  double cost_;
  // By permutations of whole vectors, if that is cheaper than float by float.
  bool shuffled_ = false;
  std::vector<uint32_t> begin_, from_;
  std::vector<int32_t> lane_;
};

}  // namespace fggp
