#include "plan/gemm_plan.h"

namespace fggp {
namespace {

// A gathered element costs about as much as this many contiguous ones.
constexpr size_t kGatherCost = 5;

}  // namespace

GemmPlan::GemmPlan(const FggpIsa& isa, std::shared_ptr<const SparseRows> rows,
                   std::shared_ptr<const std::vector<float>> bias, const Activation& activation)
    : isa_(&isa), cols_(static_cast<size_t>(rows->cols)), bias_(std::move(bias)), activation_(activation) {
  if (rows->nonzeros() * kGatherCost < bias_->size() * cols_) {
    rows_ = std::move(rows);
    return;
  }
  dense_.resize(bias_->size() * cols_);
  for (size_t o = 0; o < bias_->size(); o++)
    for (uint32_t e = rows->begin[o]; e < rows->begin[o + 1]; e++)
      dense_[o * cols_ + rows->column[e]] = rows->value[e];
}

double GemmPlan::work() const {
  return rows_ ? 4.0 * static_cast<double>(rows_->nonzeros()) : static_cast<double>(dense_.size());
}

void GemmPlan::run(const float* x, const float* r, float* y, int first, int last) const {
  for (auto o = static_cast<size_t>(first); o < static_cast<size_t>(last); o++) {
    const float* weight = dense_.data() + o * cols_;
    const uint32_t* column = nullptr;
    size_t n = cols_;
    if (rows_) {
      const uint32_t begin = rows_->begin[o];
      weight = rows_->value.data() + begin;
      column = rows_->column.data() + begin;
      n = rows_->begin[o + 1] - begin;
    }
    const float sum = (*bias_)[o] + isa_->dot(weight, column, n, x);
    y[o] = activated(activation_, r ? sum + r[o] : sum);
  }
}

}  // namespace fggp
