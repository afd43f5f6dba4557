// The layout between our kernels: a plane is cut into a grid of gh x gw equal tiles, and the tiles
// lie side by side in the lanes of a vector: [channel][tile row + halo][tile column + halo][lane].
// With a halo as wide as the next kernel's reach, every tap of every tile is one aligned load.
// A grid of four tiles leaves room for four images in sixteen lanes, so that they share each weight.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "isa/isa.h"
#include "program/error.h"

namespace fggp {

struct Layout {
  int channels = 0, height = 0, width = 0;
  int grid_h = 4, grid_w = 4;
  int tile_h = 0, tile_w = 0, halo = 0;
  // Lane l of vector j is element 16 j + l of the plane, for steps that mix no elements: a plane of
  // whole vectors is then the same as row-major.
  bool adjacent = false;
  bool int8x4 = false;  // quantized: a plane holds four channels (isa.h)
  int images = 1;       // side by side in the lanes

  int tiles() const { return grid_h * grid_w; }
  int lanes() const { return images * tiles(); }  // lane l: tile l % tiles() of image l / tiles()
  // Where the tile of a lane begins in its image's plane.
  int top_of(int lane) const { return lane / grid_w % grid_h * tile_h; }
  int left_of(int lane) const { return lane % grid_w * tile_w; }
  int row_vectors() const { return tile_w + 2 * halo; }
  size_t plane_vectors() const;
  size_t plane() const { return plane_vectors() * static_cast<size_t>(lanes()); }
  int planes() const { return int8x4 ? (channels + 3) / 4 : channels; }
  size_t size() const { return static_cast<size_t>(planes()) * plane(); }
  // Floats from the start of a plane to tile position (i, j), which may lie in the halo.
  size_t at(int i, int j) const {
    return (static_cast<size_t>(i + halo) * row_vectors() + static_cast<size_t>(j + halo)) *
           static_cast<size_t>(lanes());
  }
  // Floats of one image's plane.
  size_t row_major() const { return static_cast<size_t>(height) * static_cast<size_t>(width); }
  bool full() const { return static_cast<size_t>(tiles()) * tile_h * tile_w == row_major(); }
  bool is_row_major() const { return adjacent && full(); }
  bool same_tiles(const Layout& o) const {
    return grid_h == o.grid_h && grid_w == o.grid_w && tile_h == o.tile_h && tile_w == o.tile_w &&
           adjacent == o.adjacent && int8x4 == o.int8x4;
  }
  Layout with_int8x4(bool on) const {
    Layout l = *this;
    l.int8x4 = on;
    return l;
  }
};

// The grid that wastes the fewest lanes on a plane; 2x2 planes get four lanes instead of sixteen.
// Every dimension must be positive and below 2^20, or an Error is thrown.
Layout choose_layout(int64_t channels, int64_t height, int64_t width);

// The layout of adjacent lanes.
Layout adjacent_layout(int64_t channels, int64_t height, int64_t width);

// The lanes that are real at each position of the tile; empty when all are.
std::vector<uint16_t> lane_masks(const Layout& l);

// Row `i` of all tiles of a plane, halo included, from a row-major H x W plane, or one of each image
// `image_step` floats apart.
void pack_row(const FggpIsa& isa, const Layout& l, int i, const float* x, size_t image_step, float* y);
// About how long all rows take, in the unit of Rearrangement::cost.
double pack_cost(const FggpIsa& isa, const Layout& l);
// For every element of a row-major H x W plane of the first image, its place in the tile-interleaved one.
std::vector<int32_t> inverse_index(const Layout& l);
// For every float of a plane of `to`, its place in a row-major H x W plane, or -1; the images' planes are
// `image_step` floats apart.
std::vector<int32_t> pack_index(const Layout& to, size_t image_step);
// For every float of a plane of `to`, its place in a plane of `from` (the same H x W), or -1.
std::vector<int32_t> relayout_index(const Layout& from, const Layout& to, size_t image_step);

// How the halo of a plane follows from its tiles: each halo vector is a permutation of one vector.
struct Halo {
  std::vector<uint32_t> from, to;
  std::vector<int32_t> lane;
  std::vector<uint16_t> mask;
  explicit Halo(const Layout& l);
  Halo() = default;
  void fill(const FggpIsa& isa, const Layout& l, float* y, int first, int last) const {
    fill(isa, l, y, first, last, 0, to.size());
  }
  // Only the halo vectors [begin, end).
  void fill(const FggpIsa& isa, const Layout& l, float* y, int first, int last, size_t begin,
            size_t end) const;
  // Sorts the halo vectors by the block of `rows` x `cols` vectors that each follows from. Returns the
  // first one of each block, and their number.
  std::vector<size_t> sort_by_block(const Layout& l, int rows, int cols);
};

}  // namespace fggp
