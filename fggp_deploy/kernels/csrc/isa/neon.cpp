// For 64-bit Arm: every processor has NEON, so no flags are needed. A vector of sixteen lanes is
// four registers of the thirty-two, so blocks are as small as for AVX2 and layouts the same.
// Permutations are table look-ups in four registers at once; an index outside the table leaves a
// zero (vqtbl) or what was there before (vqtbx), which is how lanes are masked.
#include "isa/neon.inl"
#include "isa/float_body.inl"

namespace {

// The bytes of four lanes of a table of sixteen floats; lane -1 gives 252 … 255, outside of it.
inline uint8x16_t bytes_of(const int32_t* lane) {
  const uint32x4_t first = vmulq_n_u32(vreinterpretq_u32_s32(vld1q_s32(lane)), 0x04040404u);
  return vreinterpretq_u8_u32(vaddq_u32(first, vdupq_n_u32(0x03020100u)));
}

inline uint8x16_t bytes_of(const int32_t* lane, uint32_t mask) {
  return vorrq_u8(bytes_of(lane), vmvnq_u8(vreinterpretq_u8_u32(lane_mask(mask))));
}

// Sixteen floats as a table.
inline uint8x16x4_t table(const float* p) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(p);
  return {{vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32), vld1q_u8(bytes + 48)}};
}

inline void put(float* p, uint8x16_t v) { vst1q_f32(p, vreinterpretq_f32_u8(v)); }

struct Permutation16 {
  static constexpr int kLanes = 16;
  uint8x16_t at[4];
  Permutation16(const int32_t* lane, uint32_t mask) {
    for (int q = 0; q < 4; q++) at[q] = bytes_of(lane + q * 4, mask >> (q * 4));
  }
  void operator()(const float* from, float* to) const {
    const uint8x16x4_t x = table(from);
    for (int q = 0; q < 4; q++) put(to + q * 4, vqtbl4q_u8(x, at[q]));
  }
};

struct Permutation4 {
  static constexpr int kLanes = 4;
  uint8x16_t at;
  Permutation4(const int32_t* lane, uint32_t mask) : at(bytes_of(lane, mask)) {}
  void operator()(const float* from, float* to) const {
    put(to, vqtbl1q_u8(vld1q_u8(reinterpret_cast<const uint8_t*>(from)), at));
  }
};

// Two channels at a time, so that a permutation is made once for both.
void shuffle(const FggpShuffle* args) {
  const FggpShuffle s = *args;  // a copy that no store can alias
  for (size_t c = 0; c < s.channels; c += 2) {
    const bool both = c + 1 < s.channels;
    const float* x0 = s.x + c * s.x_plane;
    const float* x1 = both ? x0 + s.x_plane : x0;
    float* y0 = s.y + c * s.y_plane;
    float* y1 = both ? y0 + s.y_plane : y0;
    for (size_t v = 0; v < s.n; v++) {
      uint8x16_t a0[4], a1[4];
      for (int q = 0; q < 4; q++) a0[q] = a1[q] = vdupq_n_u8(0);
      for (uint32_t t = s.begin[v]; t < s.begin[v + 1]; t++) {
        const uint8x16x4_t v0 = table(x0 + s.from[t]), v1 = table(x1 + s.from[t]);
        for (int q = 0; q < 4; q++) {
          const uint8x16_t at = bytes_of(s.lane + size_t{t} * 16 + q * 4);
          a0[q] = vqtbx4q_u8(a0[q], v0, at);
          a1[q] = vqtbx4q_u8(a1[q], v1, at);
        }
      }
      for (int q = 0; q < 4; q++) put(y0 + v * 16 + q * 4, a0[q]);
      for (int q = 0; q < 4; q++) put(y1 + v * 16 + q * 4, a1[q]);
    }
  }
}

// Four rows of four floats, transposed.
inline void transpose(float32x4_t r[4]) {
  const float32x4_t a = vtrn1q_f32(r[0], r[1]), b = vtrn2q_f32(r[0], r[1]);
  const float32x4_t c = vtrn1q_f32(r[2], r[3]), d = vtrn2q_f32(r[2], r[3]);
  const auto wide = [](float32x4_t v) { return vreinterpretq_f64_f32(v); };
  r[0] = vreinterpretq_f32_f64(vtrn1q_f64(wide(a), wide(c)));
  r[1] = vreinterpretq_f32_f64(vtrn1q_f64(wide(b), wide(d)));
  r[2] = vreinterpretq_f32_f64(vtrn2q_f64(wide(a), wide(c)));
  r[3] = vreinterpretq_f32_f64(vtrn2q_f64(wide(b), wide(d)));
}

void pack(const FggpPack* p) {
  for (int l = 0; l < p->lanes; l += 4)
    for (int j = 0; j < p->n; j += 4) {
      float32x4_t r[4];
      for (int k = 0; k < 4; k++) {
        const int first = p->first[l + k], last = p->last[l + k];
        if (first <= j && j + 4 <= last) {
          r[k] = vld1q_f32(p->x[l + k] + (j - first));
          continue;
        }
        float edge[4] = {0, 0, 0, 0};
        for (int i = 0; i < 4; i++)
          if (j + i >= first && j + i < last) edge[i] = p->x[l + k][j + i - first];
        r[k] = vld1q_f32(edge);
      }
      transpose(r);
      const int n = p->n - j < 4 ? p->n - j : 4;
      for (int i = 0; i < n; i++) vst1q_f32(p->y + (j + i) * p->lanes + l, r[i]);
    }
}

void transpose(const FggpTranspose* t) {
  const size_t rows = t->rows / 4 * 4, cols = t->cols / 4 * 4;
  for (size_t r0 = 0; r0 < rows; r0 += 4)
    for (size_t c0 = 0; c0 < cols; c0 += 4) {
      float32x4_t r[4];
      for (size_t i = 0; i < 4; i++) r[i] = vld1q_f32(t->x + (r0 + i) * t->x_row + c0);
      transpose(r);
      for (size_t i = 0; i < 4; i++) vst1q_f32(t->y + (c0 + i) * t->y_row + r0, r[i]);
    }
  transpose_edges(*t, rows, cols);
}

float dot(const float* weight, const uint32_t* column, size_t n, const float* x) {
  return column ? dot_by_element(weight, column, n, x) : dot_dense<Lanes16>(weight, n, x);
}

int supported() { return 1; }

const FggpConvVariant kConv[] = {FGGP_BLOCKS(FGGP_CONV, FGGP_CONV_ONE)};

const FggpInt8x4* const kInt8x4[] = {&fggp_int8x4_neon, &fggp_int8x4_portable, nullptr};

constexpr FggpIsa isa(const char* name, int (*is_supported)(), const FggpInt8x4* const* int8x4) {
  return {name, is_supported, int8x4, kConv, sizeof(kConv) / sizeof(kConv[0]), pool<Lanes16>,
          pool<Lanes4>, depthwise<Lanes16>, depthwise<Lanes4>, halo<Permutation16>, halo<Permutation4>,
          pack, transpose, gather_by_element, shuffle, 16, sum<Lanes16>, sum<Lanes4>, finite<Lanes16>,
          dot, dense<Lanes16, 6, 1>, 16};
}

#ifdef FGGP_NEON_I8MM
const FggpInt8x4* const kWithI8mm[] = {&fggp_int8x4_neon_i8mm, nullptr};

int supported_with_i8mm() { return fggp_int8x4_neon_i8mm.supported(); }
#endif

}  // namespace

extern "C" const FggpIsa fggp_neon = isa("neon", supported, kInt8x4);
#ifdef FGGP_NEON_I8MM
// The same for floats.
extern "C" const FggpIsa fggp_neon_i8mm = isa("neon_i8mm", supported_with_i8mm, kWithI8mm);
#endif
