// The weights of convolutions as the kernels read them, shared by the plans for all input sizes.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "plan/live_taps.h"

namespace fggp {

// Weights in the order in which groups of output channels multiply them, one block of input channels
// after the other. This does not depend on the input's size; only their offsets in the input do.
struct PackedRows {
  std::vector<float> weight;    // [block][group][entry][output channel of the group]
  std::vector<uint32_t> begin;  // the first entry of each [block][group], and their number
};

// What the plans of one program have packed. A packing lives as long as a plan that uses it, which also
// keeps the rows that it was made from.
class Packings {
 public:
  using Rows = std::shared_ptr<const SparseRows>;
  struct Key {
    const SparseRows* rows;
    int group, channels_per_block;
    bool int8x4;
    bool operator<(const Key& o) const {
      return std::tie(rows, group, channels_per_block, int8x4) <
             std::tie(o.rows, o.group, o.channels_per_block, o.int8x4);
    }
  };
  // The packing that another plan has made, or `made`, which has the same content.
  std::shared_ptr<const PackedRows> shared(const Key& key, PackedRows made) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::weak_ptr<const PackedRows>& known = known_[key];
    if (auto found = known.lock()) return found;
    const auto kept = std::make_shared<const PackedRows>(std::move(made));
    known = kept;
    return kept;
  }
  // The rows without the taps that do not meet the input; the same ones for all plans that need them.
  // `rows` outlives this.
  Rows with_taps(const Rows& rows, const ConvShape& shape, const Taps& taps) {
    if (taps.count() == shape.taps()) return rows;
    const std::lock_guard<std::mutex> lock(mutex_);
    std::weak_ptr<const SparseRows>& known = with_taps_[{rows.get(), taps}];
    if (auto found = known.lock()) return found;
    const auto made = std::make_shared<const SparseRows>(fggp::with_taps(*rows, shape, taps));
    known = made;
    return made;
  }

 private:
  std::mutex mutex_;
  std::map<Key, std::weak_ptr<const PackedRows>> known_;
  std::map<std::pair<const SparseRows*, Taps>, std::weak_ptr<const SparseRows>> with_taps_;
};

}  // namespace fggp
