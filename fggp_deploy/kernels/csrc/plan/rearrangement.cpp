#include "plan/rearrangement.h"

#include <algorithm>

namespace fggp {
namespace {

// Instructions for one float, and for one permuted vector with its share of the store.
constexpr double kFloat = 1.25, kTerm = 2;

}  // namespace

Rearrangement::Rearrangement(const FggpIsa& isa, std::vector<int32_t> index, size_t source)
    : isa_(isa), index_(std::move(index)), cost_(kFloat * static_cast<double>(index_.size())) {
  if (isa.shuffle && source >= static_cast<size_t>(isa.shuffle_width)) plan_shuffle(source);
}

// Each vector of y is a sum of permuted vectors of x, loaded from wherever its floats are.
void Rearrangement::plan_shuffle(size_t source) {
  const auto width = static_cast<size_t>(isa_.shuffle_width), n = index_.size() / width;
  begin_.push_back(0);
  std::vector<size_t> wanted;
  for (size_t v = 0; v < n; v++) {
    const int32_t* index = index_.data() + v * width;
    wanted.clear();
    for (size_t l = 0; l < width; l++)
      if (index[l] >= 0) wanted.push_back(static_cast<size_t>(index[l]));
    std::sort(wanted.begin(), wanted.end());
    size_t next = 0;  // floats below it are covered
    for (const size_t w : wanted) {
      if (w < next) continue;
      const size_t from = std::min(w, source - width);  // no vector reaches past the plane
      from_.push_back(static_cast<uint32_t>(from));
      for (size_t l = 0; l < width; l++) {
        const bool here = index[l] >= 0 && static_cast<size_t>(index[l]) >= w &&
                          static_cast<size_t>(index[l]) < from + width;
        lane_.push_back(here ? index[l] - static_cast<int32_t>(from) : -1);
      }
      next = from + width;
    }
    begin_.push_back(static_cast<uint32_t>(from_.size()));
  }
  const double cost = kTerm * static_cast<double>(from_.size() + n) +
                      kFloat * static_cast<double>(index_.size() - n * width);
  shuffled_ = cost < cost_;
  if (shuffled_) cost_ = cost;
}

void Rearrangement::run(const float* x, size_t x_plane, float* y, size_t y_plane,
                        int channels) const {
  size_t done = 0;
  if (shuffled_) {
    FggpShuffle s;
    s.x = x;
    s.y = y;
    s.x_plane = x_plane;
    s.y_plane = y_plane;
    s.channels = static_cast<size_t>(channels);
    s.n = begin_.size() - 1;
    s.begin = begin_.data();
    s.from = from_.data();
    s.lane = lane_.data();
    isa_.shuffle(&s);
    done = s.n * static_cast<size_t>(isa_.shuffle_width);
  }
  if (done == index_.size()) return;
  for (int c = 0; c < channels; c++, x += x_plane, y += y_plane)
    isa_.gather(index_.data() + done, index_.size() - done, x, y + done);
}

}  // namespace fggp
