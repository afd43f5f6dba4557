#include "isa/isa.h"

const FggpIsa* const* fggp_isas(int* n) {
  static const FggpIsa* const all[] = {
#ifdef FGGP_X86
      &fggp_avx512,
#ifdef FGGP_AVX_VNNI
      &fggp_avx_vnni,
#endif
      &fggp_avx2,
#endif
#ifdef FGGP_ARM64
#ifdef FGGP_NEON_I8MM
      &fggp_neon_i8mm,
#endif
      &fggp_neon,
#endif
      &fggp_portable};
  *n = static_cast<int>(sizeof(all) / sizeof(all[0]));
  return all;
}

const FggpInt8x4& fggp_int8x4(const FggpIsa& isa) {
  const FggpInt8x4* const* best = isa.int8x4;
  while (!(*best)->supported()) best++;
  return **best;
}

const FggpIsa& fggp_best_isa() {
  int n = 0;
  const FggpIsa* const* all = fggp_isas(&n);
  for (int i = 0; i < n; i++)
    if (all[i]->supported()) return *all[i];
  return fggp_portable;
}
