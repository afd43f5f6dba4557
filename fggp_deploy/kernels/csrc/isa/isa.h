// The kernels: one plain C function per job, one table of them per instruction set.
//
// Nothing here allocates, throws or checks: every offset in an argument struct was computed, and
// checked against its buffer, when the plan was made. All strides are counted in floats.
//
// Activations are tile-interleaved (layout.h): a plane is cut into a grid of equal tiles, and lane
// l of a vector belongs to tile l. A kernel tap is then one aligned load, whatever its offset.
//
// Quantized activations lie in the same tiles as int8x4: the 32 bits of a float hold the uint8 values
// of four channels, channel 4 q + k in bits 8 k to 8 k + 7 of plane q. Zero bits stand for zeros, so
// halos and permutations are the same for both; a "float" below may be an int8x4.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "isa/activation.h"

#ifdef _WIN32
#define FGGP_EXPORT extern "C" __declspec(dllexport)
#else
#define FGGP_EXPORT extern "C" __attribute__((visibility("default")))
#endif

extern "C" {

// One spatial block of one convolution, for a run of output channels.
typedef struct {
  const float* x;          // first input vector of the block at tap (0, 0), channel 0
  ptrdiff_t x_row;         // between the input rows of two successive output rows
  const uint16_t* offset;  // per entry: from x to its input vector, in vectors
  const float* weight;     // per entry: one weight for each channel of the group, or four int8
  const uint32_t* begin;   // [n_groups + 1] first entry of each group of output channels
  const uint32_t* base;   // [n_groups] added to the offsets of a group, in vectors
  uint32_t n_groups;
  const float* bias;  // null: add to what y holds (a later block of input channels)
  float* y;
  ptrdiff_t y_row, y_channel;
  const float* residual;  // null: none
  ptrdiff_t residual_row, residual_channel;
  const uint16_t* mask;  // per output vector of the tile, which lanes are real; null: all
  ptrdiff_t mask_row;
  FggpActivation activation;
  // The rest is read only if x is int8x4; then there is one block of input channels.
  const int32_t* start;  // per output channel: the initial value of its sum of products
  const float* factor;   // per output channel: the scale of that sum
  uint32_t channel;      // the first output channel, a multiple of four if y or residual is int8x4
  float residual_scale;  // 0: the residual is floats
  float inverse_scale;   // 1 / the scale of y; 0: y is floats
} FggpConvTile;

// One channel of a pooling whose input tiles are `stride` times the output tiles.
typedef struct {
  const float* x;  // first input vector of the tile at tap (0, 0)
  float* y;
  ptrdiff_t x_row, x_step, y_row;  // x_step: between two successive outputs of a row
  int rows, cols, kernel_h, kernel_w;
  ptrdiff_t x_tap_row, x_tap;  // between two rows of taps, between two taps of a row
  const uint16_t* valid;  // [rows][cols][kernel_h][kernel_w] lanes whose tap is inside the plane
  const float* scale;     // average: [rows][cols][lanes] 1 / taps counted; null: maximum
  const uint16_t* mask;   // [rows][cols] lanes that exist; null: all
} FggpPool;

// One channel of a depthwise convolution. With one tap of weight 1 it is an addition, an activation
// or both.
typedef struct {
  const float* x;  // first input vector of the tile at tap (0, 0)
  float* y;
  const float* residual;  // null: none
  ptrdiff_t x_row, x_step, y_row, residual_row;  // x_step: between two successive outputs of a row
  int rows, cols;
  const ptrdiff_t* tap;  // [n_taps] floats from x
  const float* weight;   // [n_taps]
  int n_taps;
  ptrdiff_t square_row;  // if the taps are a whole 3x3 kernel: between two rows of them; else 0
  float bias;
  const uint16_t* mask;  // [rows][cols] lanes that exist; null: all
  FggpActivation activation;
} FggpDepthwise;

// Halo of `channels` planes: vector `to` becomes a masked permutation of vector `from`.
typedef struct {
  float* y;
  ptrdiff_t channel;
  uint32_t channels, n;
  const uint32_t *from, *to;  // floats from the start of the plane
  const int32_t* lane;        // [n][lanes]
  const uint16_t* mask;
} FggpHalo;

// A row of tiles from a row-major plane: y[j * lanes + l] = x[l][j - first[l]] if first[l] <= j <
// last[l], else 0.
typedef struct {
  const float* x[16];
  int first[16], last[16];
  float* y;
  int lanes, n;
} FggpPack;

// y[c * y_row + r] = x[r * x_row + c] for all r < rows and c < cols.
typedef struct {
  const float* x;
  size_t x_row, rows, cols;
  float* y;
  size_t y_row;
} FggpTranspose;

// Vector v of each plane of y: the lanes of some vectors of x, unaligned, each term filling some.
typedef struct {
  const float* x;
  float* y;
  size_t x_plane, y_plane, channels;
  size_t n;               // vectors of y
  const uint32_t* begin;  // [n + 1] first term of each
  const uint32_t* from;   // [terms] floats from the start of the plane to a vector of x
  const int32_t* lane;    // [terms][width] which of its lanes; negative: none, as before
} FggpShuffle;

// A panel of outputs of a linear layer on many rows: y[r][o] = bias[o] + sum of x[r][k] weight[k][o].
typedef struct {
  const float* x;
  ptrdiff_t x_row;
  const float* weight;  // [n][width]
  const float* bias;    // [width]
  size_t n, rows;
  float* y;
  ptrdiff_t y_row;
  size_t cols;   // of the width, how many exist in y
  FggpActivation activation;
} FggpDense;

typedef void (*FggpConvFn)(const FggpConvTile*);

// A compiled form of the convolution: `group` output channels by a block of rows x cols vectors.
typedef struct {
  int group, rows, cols;
  int registers;           // that hold one vector of sixteen lanes
  FggpConvFn run16[2];  // by column stride - 1; both the same if cols is 1
  FggpConvFn run4;      // for 2x2 planes, four lanes; null: none
  FggpConvFn run4x4;    // the same for four images in sixteen lanes: in each lane the same bits
} FggpConvVariant;

// The kernels for int8x4. They have a table of their own, because processors differ in whether they have
// the instructions for them.
typedef struct {
  const char* name;
  int (*supported)(void);
  int offset;  // what the kernels subtract from each byte of x
  const FggpConvVariant* conv;
  int n_conv;
  void (*pool16)(const FggpPool*);  // maximum
  void (*pool4)(const FggpPool*);
  // Quantizes up to four planes of floats to n int8x4, a multiple of four; and back.
  void (*from_floats)(const float* x, size_t plane, int channels, float inverse_scale,
                      int zero_point, size_t n, float* y);
  void (*to_floats)(const float* x, size_t n, float scale, int zero_point, int channels, float* y,
                    size_t plane);
} FggpInt8x4;

typedef struct {
  const char* name;
  int (*supported)(void);
  const FggpInt8x4* const* int8x4;  // best first; the last one runs wherever this does
  const FggpConvVariant* conv;
  int n_conv;
  void (*pool16)(const FggpPool*);
  void (*pool4)(const FggpPool*);
  void (*depthwise16)(const FggpDepthwise*);
  void (*depthwise4)(const FggpDepthwise*);
  void (*halo16)(const FggpHalo*);
  void (*halo4)(const FggpHalo*);
  void (*pack)(const FggpPack*);
  void (*transpose)(const FggpTranspose*);
  // y[i] = index[i] < 0 ? 0 : x[index[i]]
  void (*gather)(const int32_t* index, size_t n, const float* x, float* y);
  void (*shuffle)(const FggpShuffle*);  // null: none
  int shuffle_width;                    // floats of its vectors
  // Sum of a tile's real lanes: rows x cols vectors, `row` and `col` floats apart.
  float (*sum16)(const float* x, ptrdiff_t row, ptrdiff_t col, int rows, int cols);
  float (*sum4)(const float* x, ptrdiff_t row, ptrdiff_t col, int rows, int cols);
  // Whether none of x is NaN or infinite.
  int (*finite)(const float* x, size_t n);
  // sum of weight[i] * x[column[i]], or of weight[i] * x[i] if column is null
  float (*dot)(const float* weight, const uint32_t* column, size_t n, const float* x);
  void (*dense)(const FggpDense*);
  int dense_width;  // of a panel
} FggpIsa;

extern const FggpIsa fggp_avx512, fggp_avx_vnni, fggp_avx2, fggp_neon_i8mm, fggp_neon, fggp_portable;
extern const FggpInt8x4 fggp_int8x4_vnni, fggp_int8x4_avx_vnni, fggp_int8x4_avx2,
    fggp_int8x4_neon_i8mm, fggp_int8x4_neon, fggp_int8x4_portable;

}  // extern "C"

// An address to prefetch, which may lie beyond its array. It is static, so that the linker never merges
// the copies of two files that are compiled for different instruction sets.
template <class T>
static inline const void* address_after(const T* p, size_t n) {
  return reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(p) + n * sizeof(T));
}

// The maximum of two floats as the processor's instruction, and so ONNX Runtime, computes it: if one
// is NaN, it is the second on x86 and NaN on Arm.
static inline float larger(float a, float b) {
#ifdef FGGP_ARM64
  if (a != a) return a;
#endif
  return a > b ? a : b;
}

// The instruction sets compiled into this library, best first; `supported()` checks the processor.
const FggpIsa* const* fggp_isas(int* n);
// The best one that this processor has.
const FggpIsa& fggp_best_isa();
// The best kernels for int8x4 that go with it here.
const FggpInt8x4& fggp_int8x4(const FggpIsa& isa);
