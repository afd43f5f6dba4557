#include "plan/dense_rows.h"

#include <algorithm>

namespace fggp {
namespace {

size_t panels_of(const Step& s, size_t width) {
  return (static_cast<size_t>(s.shape.cout) + width - 1) / width;
}

}  // namespace

DenseRows::DenseRows(const Program& program, const FggpIsa& isa) : program_(program), isa_(isa) {
  const auto width = static_cast<size_t>(isa.dense_width);
  for (const Step& s : program.steps) {
    Panels p;
    if (s.op == Op::kGemm) {
      const size_t n = panels_of(s, width), cin = static_cast<size_t>(s.shape.cin);
      p.bias = *s.bias;
      p.bias.resize(n * width);
      p.weight.resize(n * width * cin);
      for (size_t o = 0; o < s.bias->size(); o++)
        for (uint32_t e = s.rows->begin[o]; e < s.rows->begin[o + 1]; e++)
          p.weight[(o / width * cin + s.rows->column[e]) * width + o % width] = s.rows->value[e];
    }
    panels_.push_back(std::move(p));
  }
}

size_t DenseRows::scratch_floats(int64_t rows, const std::vector<ValueShape>& values) const {
  size_t floats = 0;
  for (const ValueShape& v : values) floats += v.size();
  return floats * static_cast<size_t>(rows);
}

void DenseRows::run(int64_t rows, const std::vector<ValueShape>& values, const float* const* in,
                    float* const* out, float* scratch, const Threads& threads,
                    const Sharing& sharing) const {
  const auto n_rows = static_cast<size_t>(rows);
  std::vector<const float*> at(in, in + program_.n_inputs);
  for (size_t i = 0; i < program_.steps.size(); i++) {
    const Step& s = program_.steps[i];
    const float* x = at[static_cast<size_t>(s.input)];
    const size_t floats = n_rows * values[at.size()].size();
    const auto made = std::find(program_.outputs.begin(), program_.outputs.end(),
                                static_cast<int>(at.size()));
    float* y = scratch;
    if (made != program_.outputs.end())
      y = out[made - program_.outputs.begin()];
    else
      scratch += floats;
    const float* r = s.residual >= 0 ? at[static_cast<size_t>(s.residual)] : nullptr;
    const bool adds = s.op == Op::kAdd || r;
    if (s.op == Op::kGemm) {
      multiply(s, panels_[i], rows, x, y, adds ? Activation{} : s.activation, threads, sharing);
      x = y;
    }
    for (size_t k = 0; adds && k < floats; k++)
      y[k] = activated(s.activation, r ? x[k] + r[k] : x[k]);
    at.push_back(y);
  }
  for (size_t k = 0; k < program_.outputs.size(); k++) {
    const auto v = static_cast<size_t>(program_.outputs[k]);
    if (at[v] != out[k]) std::copy_n(at[v], n_rows * values[v].size(), out[k]);
  }
}

void DenseRows::multiply(const Step& s, const Panels& panels, int64_t rows, const float* x, float* y,
                         const Activation& activation, const Threads& threads,
                         const Sharing& sharing) const {
  const auto width = static_cast<size_t>(isa_.dense_width);
  const auto cin = static_cast<size_t>(s.shape.cin), cout = static_cast<size_t>(s.shape.cout);
  const double work = static_cast<double>(rows) * static_cast<double>(cin * cout);
  const std::vector<int> borders =
      even_split(static_cast<int>(panels_of(s, width)), sharing.parts(work));
  in_parallel(threads, borders.size() - 1, [&](size_t t) {
    for (auto p = static_cast<size_t>(borders[t]); p < static_cast<size_t>(borders[t + 1]); p++) {
      FggpDense d;
      d.x = x;
      d.x_row = static_cast<ptrdiff_t>(cin);
      d.n = cin;
      d.weight = panels.weight.data() + p * cin * width;
      d.bias = panels.bias.data() + p * width;
      d.y = y + p * width;
      d.y_row = static_cast<ptrdiff_t>(cout);
      d.rows = static_cast<size_t>(rows);
      d.cols = std::min(width, cout - p * width);
      d.activation = activation;
      isa_.dense(&d);
    }
  });
}

}  // namespace fggp
