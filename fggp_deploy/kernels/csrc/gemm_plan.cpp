#include "gemm_plan.h"

#include <algorithm>

namespace fggp {
namespace {

// A gathered element costs about as much as this many contiguous ones.
constexpr size_t kGatherCost = 5;

}  // namespace

GemmPlan::GemmPlan(const FggpIsa& isa, std::shared_ptr<const SparseRows> rows,
                   std::shared_ptr<const std::vector<float>> bias, const Activation& act)
    : isa_(&isa), rows_(std::move(rows)), bias_(std::move(bias)), act_(act) {
  const auto cols = static_cast<size_t>(rows_->cols);
  if (rows_->nonzeros() * kGatherCost < bias_->size() * cols) return;
  dense_.resize(bias_->size() * cols);
  for (size_t o = 0; o < bias_->size(); o++)
    for (uint32_t e = rows_->begin[o]; e < rows_->begin[o + 1]; e++)
      dense_[o * cols + rows_->column[e]] = rows_->value[e];
}

double GemmPlan::work() const {
  return dense_.empty() ? 4.0 * static_cast<double>(rows_->nonzeros())
                        : static_cast<double>(dense_.size());
}

void GemmPlan::run(const float* x, float* y, int first, int last) const {
  const auto cols = static_cast<size_t>(rows_->cols);
  for (auto o = static_cast<size_t>(first); o < static_cast<size_t>(last); o++) {
    const uint32_t begin = rows_->begin[o], n = rows_->begin[o + 1] - begin;
    const float total =
        (*bias_)[o] + (dense_.empty() ? isa_->dot(rows_->value.data() + begin,
                                                  rows_->column.data() + begin, n, x)
                                      : isa_->dot(&dense_[o * cols], nullptr, cols, x));
    y[o] = act_.on ? std::min(std::max(total, act_.lo), act_.hi) : total;
  }
}

}  // namespace fggp
