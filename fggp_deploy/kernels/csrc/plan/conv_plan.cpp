#include "plan/conv_plan.h"

#include <algorithm>
#include <cstring>

namespace fggp {
namespace {

// Vectors of one plane with its halo: of 8,192 by 8,192 elements. A wide halo needs an index too.
constexpr int64_t kMaxVectors = int64_t{1} << 22;

int ceil_div(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

// The same rows in groups of four input channels: columns are (group, kernel row, kernel column), and
// the bits of a value hold the int8 weights of four channels.
SparseRows by_int8x4(const SparseRows& rows, int64_t taps) {
  SparseRows out;
  out.cols = static_cast<int>((rows.cols / taps + 3) / 4 * taps);
  struct Entry {
    uint32_t column, word;
  };
  std::vector<Entry> row;
  for (size_t o = 0; o + 1 < rows.begin.size(); o++) {
    row.clear();
    for (uint32_t e = rows.begin[o]; e < rows.begin[o + 1]; e++) {
      const int64_t channel = rows.column[e] / taps, tap = rows.column[e] % taps;
      const auto byte = static_cast<uint32_t>(static_cast<uint8_t>(rows.quantized[e]));
      row.push_back({static_cast<uint32_t>(channel / 4 * taps + tap), byte << channel % 4 * 8});
    }
    std::sort(row.begin(), row.end(),
              [](const Entry& a, const Entry& b) { return a.column < b.column; });
    for (size_t i = 0; i < row.size();) {
      const uint32_t column = row[i].column;
      uint32_t word = 0;
      for (; i < row.size() && row[i].column == column; i++) word |= row[i].word;
      float bits;
      std::memcpy(&bits, &word, sizeof bits);
      out.column.push_back(column);
      out.value.push_back(bits);
    }
    out.begin.push_back(static_cast<uint32_t>(out.column.size()));
  }
  return out;
}

}  // namespace

Layout output_layout(const ConvShape& s, int64_t in_h, int64_t in_w) {
  Layout l = choose_layout(s.cout, s.out_h(in_h), s.out_w(in_w));
  // The input's tiles are `stride` times as large, and must cover all of the input.
  l.tile_h = std::max(l.tile_h, ceil_div(in_h, l.grid_h * s.stride_h));
  l.tile_w = std::max(l.tile_w, ceil_div(in_w, l.grid_w * s.stride_w));
  return l;
}

Layout input_layout(const ConvShape& s, const Layout& out, int64_t in_h, int64_t in_w) {
  Layout l = out;
  l.channels = static_cast<int>(s.cin);
  if (out.adjacent) return l;
  l.height = static_cast<int>(in_h);
  l.width = static_cast<int>(in_w);
  const int64_t h = s.stride_h * out.tile_h, w = s.stride_w * out.tile_w;
  const int64_t below = s.dilation_h * (s.kh - 1) - s.top - (s.stride_h - 1);
  const int64_t beside = s.dilation_w * (s.kw - 1) - s.left - (s.stride_w - 1);
  const int64_t halo = std::max({s.top, s.left, below, beside, int64_t{0}});
  if ((h + 2 * halo) * (w + 2 * halo) > kMaxVectors) throw Error("a plane is too large");
  l.tile_h = static_cast<int>(h);
  l.tile_w = static_cast<int>(w);
  l.halo = static_cast<int>(halo);
  return l;
}

bool ConvPlan::fits(const FggpConvVariant& v) const {
  if (shape.cout / shape.group % v.group || out.tile_h % v.rows || out.tile_w % v.cols)
    return false;
  if (v.cols > 1 && shape.stride_w > 2) return false;
  return out.tiles() == 16 || v.run4;
}

ConvPlan::Rows ConvPlan::multiplied() const {
  return in.int8x4 ? std::make_shared<SparseRows>(by_int8x4(*rows_, shape.taps())) : rows_;
}

void ConvPlan::pack(const Rows& rows, const std::vector<float>& bias, Variant v, Packings& packings) {
  rows_ = rows;
  bias_ = bias;
  mask_ = lane_masks(out);
  halo_ = Halo(out);
  for (int o = 0; in.int8x4 && o < shape.cout; o++) {
    factor_.push_back(rows->scale[o] * in_scale);
    int32_t sum = 0;
    for (uint32_t e = rows->begin[o]; e < rows->begin[o + 1]; e++) sum += rows->quantized[e];
    start_.push_back((fggp_int8x4(*isa).offset - in_zero_point) * sum);
  }
  PackedRows made = order(*multiplied(), v);
  packed_ = packings.shared({rows.get(), group(), channels_per_block_, in.int8x4}, std::move(made));
}

void ConvPlan::arrange(const SparseRows& rows, Variant v) {
  packed_ = std::make_shared<const PackedRows>(order(rows, v));
}

// Sets the offsets, and returns the weights that belong to them.
PackedRows ConvPlan::order(const SparseRows& rows, Variant v) {
  if (v.conv < 0 || v.conv >= n_forms() || !fits(form(v.conv))) v = ranked(rows.nonzeros()).front();
  const int group = form(v.conv).group;
  const int64_t cin = in.int8x4 ? in.planes() : shape.cin;
  const int64_t plane = static_cast<int64_t>(in.plane_vectors()), taps = shape.taps();
  const int64_t reach = shape.dilation_h * (shape.kh - 1) * in.row_vectors() +
                        shape.dilation_w * (shape.kw - 1);
  if (reach > 0xffff) throw Error("a kernel reaches over more than 65535 vectors");
  v.input_blocks = in.int8x4 ? 1 : std::clamp(v.input_blocks, 1, static_cast<int>(cin));
  channels_per_block_ = ceil_div(cin, v.input_blocks);
  n_groups_ = static_cast<int>(shape.cout) / group;

  // A group's offsets count from its first input channel, which keeps grouped convolutions in
  // reach. If they still do not fit sixteen bits, smaller blocks of input channels do.
  const int64_t per_group = shape.group == 1 ? cin : cin / shape.group * group;
  if ((std::min<int64_t>(channels_per_block_, per_group) - 1) * plane + reach > 0xffff)
    channels_per_block_ = static_cast<int>(std::max<int64_t>(1, (0xffff - reach) / plane + 1));
  v.input_blocks = ceil_div(cin, channels_per_block_);
  if (in.int8x4 && v.input_blocks > 1) throw Error("a quantized plane is too large");
  variant_ = v;
  halo_of_block_ = halo_.sort_by_block(out, form(v.conv).rows, form(v.conv).cols);

  std::vector<int64_t> offset_of_tap;
  for (int64_t tap = 0; tap < taps; tap++)
    offset_of_tap.push_back(tap / shape.kw * shape.dilation_h * in.row_vectors() +
                            tap % shape.kw * shape.dilation_w);
  PackedRows packed;
  packed.begin.push_back(0);
  packed.weight.reserve(rows.nonzeros());
  offset_.clear();
  offset_.reserve(rows.nonzeros());
  base_.clear();
  std::vector<uint32_t> at(rows.begin.begin(), rows.begin.end() - 1);
  for (int block = 0; block < v.input_blocks; block++) {
    const auto end = static_cast<uint32_t>(
        std::min<int64_t>(cin, int64_t{block + 1} * channels_per_block_) * taps);
    for (int o = 0; o < shape.cout; o += group) {
      int64_t base = -1;
      const auto add = [&](uint32_t column) {
        const uint32_t channel = column / static_cast<uint32_t>(taps);
        if (base < 0) base = channel * plane;
        const int64_t offset =
            channel * plane - base + offset_of_tap[column - channel * static_cast<uint32_t>(taps)];
        if (offset > 0xffff) throw Error("an input offset does not fit sixteen bits");
        offset_.push_back(static_cast<uint16_t>(offset));
      };
      for (uint32_t& e = at[o]; group == 1 && e < rows.begin[o + 1] && rows.column[e] < end; e++) {
        add(rows.column[e]);
        packed.weight.push_back(rows.value[e]);
      }
      while (group > 1) {
        // The next column that any row of the group has.
        uint32_t column = UINT32_MAX;
        for (int g = o; g < o + group; g++)
          if (at[g] < rows.begin[g + 1]) column = std::min(column, rows.column[at[g]]);
        if (column >= end) break;
        add(column);
        for (int g = o; g < o + group; g++) {
          const bool has = at[g] < rows.begin[g + 1] && rows.column[at[g]] == column;
          packed.weight.push_back(has ? rows.value[at[g]++] : 0.0f);
        }
      }
      packed.begin.push_back(static_cast<uint32_t>(offset_.size()));
      base_.push_back(static_cast<uint32_t>(std::max<int64_t>(base, 0)));
    }
  }
  packed.weight.shrink_to_fit();
  offset_.shrink_to_fit();
  return packed;
}

int ConvPlan::blocks() const {
  const FggpConvVariant& v = form(variant_.conv);
  return out.tile_h / v.rows * (out.tile_w / v.cols);
}

void ConvPlan::run(const float* x, const float* r, float* y, int first, int last,
                   int origin) const {
  for (int block = 0; block < blocks(); block++) compute(block, x, r, y, first, last, origin);
  const auto [y_first, y_last] = planes(first - origin, last - origin);
  halo_.fill(*isa, out, y, y_first, y_last);
}

void ConvPlan::run_block(int block, const float* x, const float* r, float* y, int first,
                         int last) const {
  compute(block, x, r, y, first, last, 0);
  const auto [y_first, y_last] = planes(first, last);
  const size_t* halo = &halo_of_block_[static_cast<size_t>(block)];
  halo_.fill(*isa, out, y, y_first, y_last, halo[0], halo[1]);
}

std::pair<int, int> ConvPlan::planes(int first, int last) const {
  return out.int8x4 ? std::pair(first / 4, (last + 3) / 4) : std::pair(first, last);
}

void ConvPlan::compute(int position, const float* x, const float* r, float* y, int first, int last,
                       int origin) const {
  const FggpConvVariant& v = form(variant_.conv);
  const int across = out.tile_w / v.cols;
  const int i = position / across * v.rows, j = position % across * v.cols;
  const FggpConvFn kernel = out.tiles() == 16 ? v.run16[shape.stride_w == 2]
                            : out.images == 4 ? v.run4x4
                                              : v.run4;
  const ptrdiff_t lanes = out.lanes();
  FggpConvTile a{};
  a.x_row = in.row_vectors() * lanes * static_cast<ptrdiff_t>(shape.stride_h);
  a.y_row = out.row_vectors() * lanes;
  a.y_channel = static_cast<ptrdiff_t>(out.plane());
  a.residual_row = residual.row_vectors() * lanes;
  a.residual_channel = static_cast<ptrdiff_t>(residual.plane());
  a.mask_row = out.tile_w;
  a.n_groups = static_cast<uint32_t>((last - first) / v.group);
  a.offset = offset_.data();
  a.weight = packed_->weight.data();
  if (in.int8x4) {
    a.start = &start_[first];
    a.factor = &factor_[first];
    a.channel = static_cast<uint32_t>(first);
    a.residual_scale = residual_scale;
    a.inverse_scale = out_scale != 0.0f ? 1.0f / out_scale : 0.0f;
  }
  const int y_first = planes(first - origin, last - origin).first;
  // The int8x4 kernels find the residual of the first channel themselves.
  const int r_first = in.int8x4 ? 0 : first;
  const float* x0 = x + in.at(static_cast<int>(i * shape.stride_h - shape.top),
                              static_cast<int>(j * shape.stride_w - shape.left));
  a.y = y + static_cast<size_t>(y_first) * out.plane() + out.at(i, j);
  for (int block = 0; block < variant_.input_blocks; block++) {
    const bool ends = block == variant_.input_blocks - 1;
    const size_t entry = static_cast<size_t>(block) * n_groups_ + first / v.group;
    a.x = x0;
    a.begin = &packed_->begin[entry];
    a.base = &base_[entry];
    a.bias = block == 0 ? &bias_[first] : nullptr;
    a.residual = ends && r ? r + static_cast<size_t>(r_first) * residual.plane() + residual.at(i, j)
                           : nullptr;
    a.activation = ends ? activation : Activation{};
    a.mask = ends && !mask_.empty() ? &mask_[static_cast<size_t>(i * out.tile_w + j)] : nullptr;
    kernel(&a);
  }
}

std::vector<int> ConvPlan::split(int n) const {
  std::vector<double> done{0};
  for (int g = 0; g < n_groups_; g++) {
    double work = 8;
    for (int b = 0; b < variant_.input_blocks; b++) {
      const size_t e = static_cast<size_t>(b) * n_groups_ + g;
      work += packed_->begin[e + 1] - packed_->begin[e];
    }
    done.push_back(done.back() + work);
  }
  std::vector<int> borders{0};
  const int together = in.int8x4 ? std::max(group(), 4) : group();  // channels that are not split
  for (int i = 1; i < n; i++) {
    const auto it = std::lower_bound(done.begin(), done.end(), done.back() * i / n);
    const int border = static_cast<int>(it - done.begin()) * group() / together * together;
    if (border > borders.back() && border < shape.cout) borders.push_back(border);
  }
  borders.push_back(static_cast<int>(shape.cout));
  return borders;
}

// The choice must not depend on the number of images, whose results are those of one image.
std::vector<Variant> ConvPlan::ranked(size_t nonzeros) const {
  const ConvShape& s = shape;
  const int64_t cin = in.int8x4 ? in.planes() : s.cin;
  struct Ranked {
    double cycles;
    Variant variant;
  };
  std::vector<Ranked> ranked;
  const double cols = static_cast<double>(cin / s.group * s.taps());
  const double density = static_cast<double>(nonzeros) / (cols * static_cast<double>(s.cout));
  const double registers = form(0).registers;  // per vector of sixteen lanes
  for (int i = 0; i < n_forms(); i++) {
    const FggpConvVariant& v = form(i);
    if (!fits(v)) continue;
    for (int blocks : {1, 2, 4, 8}) {
      if (blocks > 1 && (in.int8x4 || cin / blocks < 8 || density * cols / blocks < 3)) continue;
      double missing = 1;
      for (int g = 0; g < v.group; g++) missing *= 1 - density;
      const double entries = cols * (1 - missing);
      const double vectors = v.rows * v.cols * (out.tiles() == 16 ? registers : 1);
      // What the block reads of the input: from L1, L2 or beyond.
      const double touched = static_cast<double>(cin) / blocks *
                             static_cast<double>((v.rows - 1) * s.stride_h + s.kh) *
                             static_cast<double>((v.cols - 1) * s.stride_w + s.kw) *
                             out.tiles() * 4;
      const double load =
          touched < 36e3 ? 0.5 : touched < 100e3 ? 0.7 : touched < 700e3 ? 0.95 : 2.5;
      const double weights = entries * static_cast<double>(s.cout) / v.group * (2 + 4 * v.group);
      const double stream = weights < 700e3 ? 1.0 / 40 : 1.0 / 16;
      const double per_entry =
          std::max({vectors * v.group * 0.5, vectors * load + (v.group + 1) * 0.5,
                    (vectors * v.group + v.group + 3) / 6}) +
          (2 + 4 * v.group) * stream;
      const double per_group = blocks * (14 + vectors * v.group * 1.2 + 2 * v.group);
      const double tiles = static_cast<double>(out.tile_h / v.rows) * (out.tile_w / v.cols);
      const double groups = static_cast<double>(s.cout) / v.group;
      ranked.push_back({tiles * groups * (entries * per_entry + per_group), {i, blocks}});
    }
  }
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const Ranked& a, const Ranked& b) { return a.cycles < b.cycles; });
  std::vector<Variant> out_variants;
  for (const Ranked& r : ranked) out_variants.push_back(r.variant);
  return out_variants;
}

}  // namespace fggp
