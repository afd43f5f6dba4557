// The kernels, written once over a vector type; included by one file per instruction set, each
// compiled with its own flags. Everything is in an unnamed namespace and no standard header is
// used, so the linker can never merge a wide-instruction copy of an inline function into the rest.
//
// A `Lanes` type holds one vector, a float per lane, in kRegs registers of kWidth floats. Its max(a, b)
// and min(a, b) return b if either is NaN, as x86 does; on Arm they return NaN. If kByLane is set, it has
// multiply_by_lane (neon.inl), which this file uses if llvm-mca finds it faster.

namespace {

template <class V, int G, int BH, int BW, int S, int U>
void conv_tile(const FggpConvTile* args) {
  constexpr int R = V::kRegs, L = V::kRegs * V::kWidth, T = BH * BW * R;
  using Reg = typename V::Reg;
  const FggpConvTile a = *args;
  for (uint32_t block = 0; block < a.n_groups; block++) {
    const uint32_t first = a.begin[block];
    const int n = static_cast<int>(a.begin[block + 1] - first);
    const uint16_t* offset = a.offset + first;
    const float* input = a.x + static_cast<size_t>(a.base[block]) * L;
    const float* weight = a.weight + static_cast<size_t>(first) * G;
    float* y = a.y + static_cast<ptrdiff_t>(block) * G * a.y_channel;
    // Prefetches the next groups' weights: a short group ends before the hardware detects the stream.
    V::prefetch(address_after(weight, static_cast<size_t>(n) * G * 2));
    V::prefetch(address_after(weight, static_cast<size_t>(n) * G * 2 + 16));
    V::prefetch(address_after(offset, static_cast<size_t>(n) * 2));

    Reg acc[U][G][T];
#pragma GCC unroll 8
    for (int g = 0; g < G; g++) {
      const Reg start = a.bias ? V::set1(a.bias[block * G + g]) : V::zero();
#pragma GCC unroll 32
      for (int t = 0; t < T; t++) acc[0][g][t] = start;
#pragma GCC unroll 8
      for (int u = 1; u < U; u++)
#pragma GCC unroll 32
        for (int t = 0; t < T; t++) acc[u][g][t] = V::zero();
    }
    int i = 0;
    if constexpr (V::kByLane && T == 1 && G < 4) i = V::template multiply_by_lane<V>(offset, weight, input, n, acc);
    for (; i + U <= n; i += U) {
#pragma GCC unroll 8
      for (int u = 0; u < U; u++) {
        const float* x = input + static_cast<size_t>(offset[i + u]) * L;
#pragma GCC unroll 32
        for (int t = 0; t < T; t++) {
          const int v = t / R, part = t % R;
          const Reg in = V::load(x + (v / BW) * a.x_row + (v % BW) * S * L + part * V::kWidth);
#pragma GCC unroll 8
          for (int g = 0; g < G; g++)
            acc[u][g][t] = V::fma(V::set1(weight[(i + u) * G + g]), in, acc[u][g][t]);
        }
      }
    }
    for (; U > 1 && i < n; i++) {
      const float* x = input + static_cast<size_t>(offset[i]) * L;
#pragma GCC unroll 32
      for (int t = 0; t < T; t++) {
        const int v = t / R, part = t % R;
        const Reg in = V::load(x + (v / BW) * a.x_row + (v % BW) * S * L + part * V::kWidth);
#pragma GCC unroll 8
        for (int g = 0; g < G; g++)
          acc[0][g][t] = V::fma(V::set1(weight[i * G + g]), in, acc[0][g][t]);
      }
    }
#pragma GCC unroll 8
    for (int g = 0; g < G; g++) {
      float* yg = y + g * a.y_channel;
#pragma GCC unroll 8
      for (int u = 1; u < U; u++)
#pragma GCC unroll 32
        for (int t = 0; t < T; t++) acc[0][g][t] = V::add(acc[0][g][t], acc[u][g][t]);
      if (!a.bias)
#pragma GCC unroll 32
        for (int t = 0; t < T; t++)
          acc[0][g][t] = V::add(acc[0][g][t], V::load(yg + (t / R / BW) * a.y_row +
                                                      (t / R % BW) * L + t % R * V::kWidth));
      if (a.residual) {
        const float* r = a.residual + (static_cast<ptrdiff_t>(block) * G + g) * a.residual_channel;
#pragma GCC unroll 32
        for (int t = 0; t < T; t++)
          acc[0][g][t] = V::add(acc[0][g][t], V::load(r + (t / R / BW) * a.residual_row +
                                                      (t / R % BW) * L + t % R * V::kWidth));
      }
      activate<V>(a.activation, acc[0][g]);
      if (a.mask) {
#pragma GCC unroll 32
        for (int t = 0; t < T; t++)
          V::store(yg + (t / R / BW) * a.y_row + (t / R % BW) * L + t % R * V::kWidth,
                   V::keep(acc[0][g][t], static_cast<uint32_t>(a.mask[(t / R / BW) * a.mask_row +
                                                                      t / R % BW]) >>
                                             (t % R * V::kWidth)));
      } else {
#pragma GCC unroll 32
        for (int t = 0; t < T; t++)
          V::store(yg + (t / R / BW) * a.y_row + (t / R % BW) * L + t % R * V::kWidth,
                   acc[0][g][t]);
      }
    }
  }
}

// The maximum takes the taps in row-major order, the later one as the second operand, and skips those
// outside the plane: so NaN and infinities come out as from ONNX Runtime's blocked max-pool.
template <class V>
void pool(const FggpPool* p) {
  constexpr int R = V::kRegs, L = V::kRegs * V::kWidth;
  const int taps = p->kernel_h * p->kernel_w;
  const auto lowest = V::set1(-__builtin_inff());
  for (int i = 0; i < p->rows; i++)
    for (int j = 0; j < p->cols; j++) {
      const float* x = p->x + i * p->x_row + j * p->x_step;
      const uint16_t* valid = p->valid + static_cast<size_t>(i * p->cols + j) * taps;
      const uint32_t mask = p->mask ? p->mask[i * p->cols + j] : 0xffffu;
      for (int r = 0; r < R; r++) {
        auto acc = p->scale ? V::zero() : lowest;
        for (int a = 0; a < p->kernel_h; a++)
          for (int b = 0; b < p->kernel_w; b++) {
            const uint32_t ok = static_cast<uint32_t>(valid[a * p->kernel_w + b]) >> (r * V::kWidth);
            const auto v = V::load(x + a * p->x_tap_row + b * p->x_tap + r * V::kWidth);
            acc = p->scale ? V::add(acc, V::keep(v, ok)) : V::select(V::max(acc, v), acc, ok);
          }
        if (p->scale)
          acc = V::mul(acc, V::load(p->scale + static_cast<size_t>(i * p->cols + j) * L +
                                              r * V::kWidth));
        V::store(p->y + i * p->y_row + j * L + r * V::kWidth,
                 V::keep(acc, mask >> (r * V::kWidth)));
      }
    }
}

// The end of one output register: residual, activation, zeros in the lanes that do not exist.
template <class V>
inline void depthwise_end(const FggpDepthwise& p, int i, int j, int part, typename V::Reg sum) {
  typename V::Reg acc[1] = {sum};
  const ptrdiff_t at = static_cast<ptrdiff_t>(j) * (V::kRegs * V::kWidth) + part * V::kWidth;
  if (p.residual) acc[0] = V::add(acc[0], V::load(p.residual + i * p.residual_row + at));
  activate<V>(p.activation, acc);
  if (p.mask)
    acc[0] = V::keep(acc[0], static_cast<uint32_t>(p.mask[i * p.cols + j]) >> (part * V::kWidth));
  V::store(p.y + i * p.y_row + at, acc[0]);
}

// A 3x3 kernel: its weights stay in registers.
template <class V>
void depthwise_square(const FggpDepthwise& p) {
  constexpr int R = V::kRegs, L = V::kRegs * V::kWidth;
  typename V::Reg w[9];
  for (int k = 0; k < 9; k++) w[k] = V::set1(p.weight[k]);
  const auto bias = V::set1(p.bias);
  for (int i = 0; i < p.rows; i++) {
    const float* x = p.x + i * p.x_row;
    for (int j = 0; j < p.cols; j++, x += p.x_step)
      for (int r = 0; r < R; r++) {
        const float *x0 = x + r * V::kWidth, *x1 = x0 + p.square_row, *x2 = x1 + p.square_row;
        auto acc = V::fma(w[0], V::load(x0), bias);
        auto other = V::mul(w[1], V::load(x0 + L));
        acc = V::fma(w[2], V::load(x0 + 2 * L), acc);
        other = V::fma(w[3], V::load(x1), other);
        acc = V::fma(w[4], V::load(x1 + L), acc);
        other = V::fma(w[5], V::load(x1 + 2 * L), other);
        acc = V::fma(w[6], V::load(x2), acc);
        other = V::fma(w[7], V::load(x2 + L), other);
        acc = V::fma(w[8], V::load(x2 + 2 * L), acc);
        depthwise_end<V>(p, i, j, r, V::add(acc, other));
      }
  }
}

// Any taps, for B outputs of a row from (i, j).
template <class V, int B>
inline void depthwise_block(const FggpDepthwise& p, int i, int j) {
  for (int r = 0; r < V::kRegs; r++) {
    const float* x = p.x + i * p.x_row + j * p.x_step + r * V::kWidth;
    typename V::Reg acc[B];
#pragma GCC unroll 8
    for (int b = 0; b < B; b++) acc[b] = V::set1(p.bias);
    for (int k = 0; k < p.n_taps; k++) {
      const auto w = V::set1(p.weight[k]);
#pragma GCC unroll 8
      for (int b = 0; b < B; b++)
        acc[b] = V::fma(w, V::load(x + p.tap[k] + b * p.x_step), acc[b]);
    }
#pragma GCC unroll 8
    for (int b = 0; b < B; b++) depthwise_end<V>(p, i, j + b, r, acc[b]);
  }
}

template <class V>
void depthwise(const FggpDepthwise* args) {
  const FggpDepthwise p = *args;  // a copy that no store can alias
  if (p.square_row) return depthwise_square<V>(p);
  for (int i = 0; i < p.rows; i++) {
    int j = 0;
    for (; j + 4 <= p.cols; j += 4) depthwise_block<V, 4>(p, i, j);
    for (; j < p.cols; j++) depthwise_block<V, 1>(p, i, j);
  }
}

template <class V>
float sum(const float* x, ptrdiff_t row, ptrdiff_t col, int rows, int cols) {
  constexpr int R = V::kRegs;
  typename V::Reg acc = V::zero();
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < cols * R; j++)
      acc = V::add(acc, V::load(x + i * row + (j / R) * col + j % R * V::kWidth));
  alignas(64) float lanes[V::kWidth];
  V::store(lanes, acc);
  float total = 0;
  for (int l = 0; l < V::kWidth; l++) total += lanes[l];
  return total;
}

// A `Permutation` is made from the lanes and the mask of one vector of the halo, and called with the
// vectors that it reads and writes; it has kLanes lanes.
template <class Permutation>
void halo(const FggpHalo* args) {
  const FggpHalo h = *args;  // a copy that no store can alias
  // Channels in the inner loop, so that a permutation is made once for a run of them.
  for (uint32_t c0 = 0; c0 < h.channels; c0 += 16) {
    const uint32_t n = h.channels - c0 < 16 ? h.channels - c0 : 16;
    float* const first = h.y + static_cast<ptrdiff_t>(c0) * h.channel;
    for (uint32_t k = 0; k < h.n; k++) {
      const Permutation permute(h.lane + k * Permutation::kLanes, h.mask[k]);
      const float* from = first + h.from[k];
      float* to = first + h.to[k];
      for (uint32_t c = 0; c < n; c++, from += h.channel, to += h.channel) permute(from, to);
    }
  }
}

template <int L>
struct PermutationByLane {
  static constexpr int kLanes = L;
  const int32_t* lane;
  uint32_t mask;
  PermutationByLane(const int32_t* l, uint32_t m) : lane(l), mask(m) {}
  void operator()(const float* from, float* to) const {
    for (int l = 0; l < L; l++) to[l] = mask >> l & 1 ? from[lane[l]] : 0.0f;
  }
};

inline void pack_by_element(const FggpPack* p) {
  for (int l = 0; l < p->lanes; l++)
    for (int j = 0; j < p->n; j++)
      p->y[j * p->lanes + l] =
          j >= p->first[l] && j < p->last[l] ? p->x[l][j - p->first[l]] : 0.0f;
}

inline void transpose_by_element(const FggpTranspose* t) {
  constexpr size_t kSquare = 16;  // of floats, which stays in the nearest cache
  for (size_t r0 = 0; r0 < t->rows; r0 += kSquare)
    for (size_t c0 = 0; c0 < t->cols; c0 += kSquare)
      for (size_t c = c0; c < t->cols && c < c0 + kSquare; c++)
        for (size_t r = r0; r < t->rows && r < r0 + kSquare; r++)
          t->y[c * t->y_row + r] = t->x[r * t->x_row + c];
}

// What is left if the first `rows` x `cols` are done.
inline void transpose_edges(const FggpTranspose& t, size_t rows, size_t cols) {
  const FggpTranspose below{t.x + rows * t.x_row, t.x_row, t.rows - rows, cols, t.y + rows, t.y_row};
  const FggpTranspose beside{t.x + cols, t.x_row, t.rows, t.cols - cols, t.y + cols * t.y_row, t.y_row};
  transpose_by_element(&below);
  transpose_by_element(&beside);
}

inline void gather_by_element(const int32_t* index, size_t n, const float* x, float* y) {
  for (size_t i = 0; i < n; i++) y[i] = index[i] < 0 ? 0.0f : x[index[i]];
}

inline float dot_by_element(const float* weight, const uint32_t* column, size_t n,
                            const float* x) {
  float total[4] = {0, 0, 0, 0};
  size_t i = 0;
  for (; column && i + 4 <= n; i += 4)
    for (int k = 0; k < 4; k++) total[k] += weight[i + k] * x[column[i + k]];
  for (; i < n; i++) total[0] += weight[i] * x[column ? column[i] : i];
  return (total[0] + total[1]) + (total[2] + total[3]);
}

// A float times zero is not zero if it is NaN or infinite.
template <class V>
int finite(const float* x, size_t n) {
  constexpr int W = V::kWidth;
  typename V::Reg acc[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  size_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W)
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) acc[k] = V::fma(V::load(x + i + k * W), V::zero(), acc[k]);
  alignas(64) float lanes[W];
  V::store(lanes, V::add(V::add(acc[0], acc[1]), V::add(acc[2], acc[3])));
  float total = 0;
  for (float lane : lanes) total += lane;
  for (; i < n; i++) total += x[i] * 0.0f;
  return total == 0.0f;
}

// Sum of weight[i] * x[i].
template <class V>
float dot_dense(const float* weight, size_t n, const float* x) {
  constexpr int W = V::kWidth;
  typename V::Reg acc[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  size_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W)
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
      acc[k] = V::fma(V::load(weight + i + k * W), V::load(x + i + k * W),
                      acc[k]);
  for (; i + W <= n; i += W)
    acc[0] = V::fma(V::load(weight + i), V::load(x + i), acc[0]);
  alignas(64) float lanes[W];
  V::store(lanes, V::add(V::add(acc[0], acc[1]), V::add(acc[2], acc[3])));
  float total = dot_by_element(weight + i, nullptr, n - i, x + i);
  for (int l = 0; l < W; l++) total += lanes[l];
  return total;
}

// ROWS rows of a panel of VECS vectors of sixteen outputs.
template <class V, int ROWS, int VECS>
void dense_block(const FggpDense& d, size_t row) {
  constexpr int N = VECS * V::kRegs, W = V::kWidth;
  const float* x = d.x + static_cast<ptrdiff_t>(row) * d.x_row;
  const float* weight = d.weight;
  typename V::Reg acc[ROWS][N];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 8
    for (int v = 0; v < N; v++) acc[r][v] = V::load(d.bias + v * W);
  for (size_t k = 0; k < d.n; k++, weight += N * W) {
    typename V::Reg w[N];
#pragma GCC unroll 8
    for (int v = 0; v < N; v++) w[v] = V::load(weight + v * W);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
      const auto in = V::set1(x[static_cast<size_t>(r) * static_cast<size_t>(d.x_row) + k]);
#pragma GCC unroll 8
      for (int v = 0; v < N; v++) acc[r][v] = V::fma(in, w[v], acc[r][v]);
    }
  }
  alignas(64) float edge[N * W];
  for (int r = 0; r < ROWS; r++) {
    float* y = d.y + static_cast<ptrdiff_t>(row + static_cast<size_t>(r)) * d.y_row;
    float* to = d.cols < N * W ? edge : y;
    activate<V>(d.activation, acc[r]);
#pragma GCC unroll 8
    for (int v = 0; v < N; v++) V::store(to + v * W, acc[r][v]);
    for (size_t c = 0; to == edge && c < d.cols; c++) y[c] = edge[c];
  }
}

// The block of `n` rows, at most ROWS.
template <class V, int ROWS, int VECS>
void dense_block_of(size_t n, const FggpDense& d, size_t row) {
  if (n == ROWS) return dense_block<V, ROWS, VECS>(d, row);
  if constexpr (ROWS > 1) dense_block_of<V, ROWS - 1, VECS>(n, d, row);
}

// All rows, in blocks of about the same size.
template <class V, int ROWS, int VECS>
void dense(const FggpDense* args) {
  const FggpDense d = *args;  // a copy that no store can alias
  for (size_t row = 0; row < d.rows;) {
    const size_t left = d.rows - row, blocks = (left + ROWS - 1) / ROWS;
    const size_t n = (left + blocks - 1) / blocks;
    dense_block_of<V, ROWS, VECS>(n, d, row);
    row += n;
  }
}

}  // namespace

#define FGGP_CONV(g, rows, cols, unroll)                                    \
  {                                                                         \
    g, rows, cols, Lanes16::kRegs,                                          \
        {conv_tile<Lanes16, g, rows, cols, 1, unroll>,                      \
         conv_tile<Lanes16, g, rows, cols, (cols) == 1 ? 1 : 2, unroll>},   \
        nullptr, nullptr                                                    \
  }
// A block of one vector also has forms for 2x2 planes: of one image in four lanes, and of four images,
// which adds in the same order.
#define FGGP_CONV_ONE(g, unroll, unroll4)                                                       \
  {                                                                                             \
    g, 1, 1, Lanes16::kRegs,                                                                    \
        {conv_tile<Lanes16, g, 1, 1, 1, unroll>, conv_tile<Lanes16, g, 1, 1, 1, unroll>},       \
        conv_tile<Lanes4, g, 1, 1, 1, unroll4>, conv_tile<Lanes16, g, 1, 1, 1, unroll4>         \
  }
