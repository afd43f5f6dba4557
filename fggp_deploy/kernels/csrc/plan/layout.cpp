#include "plan/layout.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

namespace fggp {
namespace {

constexpr int64_t kMaxDim = 1 << 20;
constexpr size_t kMaxPlane = size_t{1} << 30;  // offsets inside a plane are 32-bit

int ceil_div(int a, int b) { return (a + b - 1) / b; }
int floor_div(int a, int b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// Without tiles yet.
Layout checked(int64_t channels, int64_t height, int64_t width) {
  for (int64_t d : {channels, height, width})
    if (d < 1 || d >= kMaxDim)
      throw Error("a dimension is " + std::to_string(d) + "; it must be from 1 to 2^20");
  Layout l;
  l.channels = static_cast<int>(channels);
  l.height = static_cast<int>(height);
  l.width = static_cast<int>(width);
  return l;
}

}  // namespace

size_t Layout::plane_vectors() const {
  const size_t n = static_cast<size_t>(tile_h + 2 * halo) * static_cast<size_t>(row_vectors());
  // An odd number of cache lines, so that the same position of many channels does not fall into
  // one set of the cache.
  return tiles() == 16 && n > 4 && n % 2 == 0 && !is_row_major() ? n + 1 : n;
}

Layout choose_layout(int64_t channels, int64_t height, int64_t width) {
  Layout l = checked(channels, height, width);
  if (height <= 2 && width <= 2) {
    l.grid_h = l.grid_w = 2;
  } else {
    // In order of preference when two waste the same: square tiles have the smallest halo.
    constexpr int kGrids[][2] = {{4, 4}, {2, 8}, {8, 2}, {1, 16}, {16, 1}};
    int64_t fewest = INT64_MAX;
    for (const auto& g : kGrids) {
      const int64_t vectors = int64_t{ceil_div(l.height, g[0])} * ceil_div(l.width, g[1]);
      if (vectors < fewest) {
        fewest = vectors;
        l.grid_h = g[0];
        l.grid_w = g[1];
      }
    }
  }
  l.tile_h = ceil_div(l.height, l.grid_h);
  l.tile_w = ceil_div(l.width, l.grid_w);
  if (l.plane() >= kMaxPlane) throw Error("a plane is too large");
  return l;
}

Layout adjacent_layout(int64_t channels, int64_t height, int64_t width) {
  Layout l = checked(channels, height, width);
  if (l.row_major() >= kMaxPlane) throw Error("a plane is too large");
  l.adjacent = true;
  l.grid_h = l.tile_h = 1;
  l.grid_w = 16;
  l.tile_w = static_cast<int>((l.row_major() + 15) / 16);
  // Few blocks of vectors divide an odd number of them.
  if (!l.full() && l.tile_w > 4) l.tile_w += l.tile_w % 2;
  return l;
}

std::vector<uint16_t> lane_masks(const Layout& l) {
  std::vector<uint16_t> masks;
  if (l.full()) return masks;
  for (size_t j = 0; l.adjacent && j < static_cast<size_t>(l.tile_w); j++) {
    const size_t left = l.row_major() - std::min(l.row_major(), j * 16);
    masks.push_back(static_cast<uint16_t>(left >= 16 ? 0xffff : (1u << left) - 1));
  }
  if (l.adjacent) return masks;
  for (int i = 0; i < l.tile_h; i++)
    for (int j = 0; j < l.tile_w; j++) {
      uint16_t m = 0;
      for (int k = 0; k < l.lanes(); k++)
        if (l.top_of(k) + i < l.height && l.left_of(k) + j < l.width)
          m = static_cast<uint16_t>(m | 1u << k);
      masks.push_back(m);
    }
  return masks;
}

void pack_row(const FggpIsa& isa, const Layout& l, int i, const float* x, size_t image_step, float* y) {
  FggpPack p;
  p.lanes = l.lanes();
  p.n = l.row_vectors();
  p.y = y + l.at(i, -l.halo);
  for (int k = 0; k < p.lanes; k++) {
    // The lane's row of the plane, and which of its positions lie inside.
    const int row = l.top_of(k) + i, column = l.left_of(k) - l.halo;
    const float* plane = x + static_cast<size_t>(k / l.tiles()) * image_step;
    const bool inside = row >= 0 && row < l.height;
    p.first[k] = inside ? std::clamp(-column, 0, p.n) : 0;
    p.last[k] = inside ? std::clamp(l.width - column, p.first[k], p.n) : 0;
    p.x[k] = p.last[k] > p.first[k]
                 ? plane + static_cast<size_t>(row) * static_cast<size_t>(l.width) + column + p.first[k]
                 : plane;
  }
  isa.pack(&p);
}

double pack_cost(const FggpIsa& isa, const Layout& l) {
  constexpr double kTranspose = 260, kRow = 60;  // of sixteen columns; what each row needs besides
  constexpr double kFloat = 1.5;
  const double rows = l.tile_h + 2 * l.halo, columns = l.row_vectors();
  if (isa.shuffle && l.lanes() == 16)  // then `pack` transposes
    return rows * (kRow + kTranspose * std::ceil(columns / 16));
  return rows * (kRow + kFloat * columns * l.lanes());
}

std::vector<int32_t> inverse_index(const Layout& l) {
  std::vector<int32_t> index(l.row_major());
  if (l.adjacent) {
    std::iota(index.begin(), index.end(), 0);
    return index;
  }
  for (int y = 0; y < l.height; y++)
    for (int x = 0; x < l.width; x++)
      index[static_cast<size_t>(y) * static_cast<size_t>(l.width) + static_cast<size_t>(x)] =
          static_cast<int32_t>(l.at(y % l.tile_h, x % l.tile_w)) + y / l.tile_h * l.grid_w +
          x / l.tile_w;
  return index;
}

std::vector<int32_t> pack_index(const Layout& to, size_t image_step) {
  std::vector<int32_t> index(to.plane(), -1);
  if (to.adjacent) {
    std::iota(index.begin(), index.begin() + static_cast<ptrdiff_t>(to.row_major()), 0);
    return index;
  }
  for (int i = -to.halo; i < to.tile_h + to.halo; i++)
    for (int j = -to.halo; j < to.tile_w + to.halo; j++)
      for (int k = 0; k < to.lanes(); k++) {
        const int y = to.top_of(k) + i, x = to.left_of(k) + j;
        if (y >= 0 && y < to.height && x >= 0 && x < to.width)
          index[to.at(i, j) + static_cast<size_t>(k)] =
              k / to.tiles() * static_cast<int>(image_step) + y * to.width + x;
      }
  return index;
}

std::vector<int32_t> relayout_index(const Layout& from, const Layout& to, size_t image_step) {
  const std::vector<int32_t> source = inverse_index(from);
  const auto plane = static_cast<int32_t>(source.size()), step = static_cast<int32_t>(image_step);
  std::vector<int32_t> index = pack_index(to, source.size());
  for (int32_t& i : index)
    if (i >= 0) i = i / plane * step + source[static_cast<size_t>(i % plane)];
  return index;
}

Halo::Halo(const Layout& l) {
  for (int i = -l.halo; i < l.tile_h + l.halo; i++)
    for (int j = -l.halo; j < l.tile_w + l.halo; j++) {
      if (i >= 0 && i < l.tile_h && j >= 0 && j < l.tile_w) continue;
      // The tile that owns this position lies (dy, dx) tiles away.
      const int dy = floor_div(i, l.tile_h), dx = floor_div(j, l.tile_w);
      to.push_back(static_cast<uint32_t>(l.at(i, j)));
      from.push_back(static_cast<uint32_t>(l.at(i - dy * l.tile_h, j - dx * l.tile_w)));
      uint16_t m = 0;
      for (int k = 0; k < l.lanes(); k++) {
        const int y = k / l.grid_w % l.grid_h + dy, x = k % l.grid_w + dx;
        const bool inside = y >= 0 && y < l.grid_h && x >= 0 && x < l.grid_w;
        lane.push_back(inside ? k + dy * l.grid_w + dx : 0);
        if (inside) m = static_cast<uint16_t>(m | 1u << k);
      }
      mask.push_back(m);
    }
}

std::vector<size_t> Halo::sort_by_block(const Layout& l, int rows, int cols) {
  const auto block = [&](size_t e) {
    const int vector = static_cast<int>(from[e] / static_cast<uint32_t>(l.lanes()));
    const int i = vector / l.row_vectors() - l.halo, j = vector % l.row_vectors() - l.halo;
    return static_cast<size_t>(i / rows * (l.tile_w / cols) + j / cols);
  };
  std::vector<size_t> order(to.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return block(a) < block(b); });
  Halo sorted;
  std::vector<size_t> begin(static_cast<size_t>(l.tile_h / rows * (l.tile_w / cols)) + 1);
  const auto lanes = static_cast<size_t>(l.lanes());
  for (const size_t e : order) {
    sorted.from.push_back(from[e]);
    sorted.to.push_back(to[e]);
    sorted.mask.push_back(mask[e]);
    for (size_t k = 0; k < lanes; k++) sorted.lane.push_back(lane[e * lanes + k]);
    begin[block(e) + 1]++;
  }
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  *this = std::move(sorted);
  return begin;
}

void Halo::fill(const FggpIsa& isa, const Layout& l, float* y, int first, int last, size_t begin,
                size_t end) const {
  if (begin >= end || first >= last) return;
  FggpHalo h;
  h.channel = static_cast<ptrdiff_t>(l.plane());
  h.y = y + static_cast<ptrdiff_t>(first) * h.channel;
  h.channels = static_cast<uint32_t>(last - first);
  h.n = static_cast<uint32_t>(end - begin);
  h.from = from.data() + begin;
  h.to = to.data() + begin;
  h.lane = lane.data() + begin * static_cast<size_t>(l.lanes());
  h.mask = mask.data() + begin;
  (l.lanes() == 16 ? isa.halo16 : isa.halo4)(&h);
}

}  // namespace fggp
