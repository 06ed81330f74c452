// The CPU kernels on many small problems, compared with a plain loop in double precision; made to be compiled
// with sanitizers, without torch. Every array is a heap block of its own, exactly as long as it must be, and
// each problem runs in a fresh thread, so that its working memory (Arena) is exactly as long as well.
//
//   driver [problems [seed [only]]]    `only`: run just the problem of that number
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cells/elman.h"
#include "cpu/kernels.h"

using namespace rnnfast;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// 16-bit floating point, written anew rather than taken from the kernels.
struct Half {
  int mantissa, bias;

  uint16_t encode(double x) const {
    if (std::isnan(x)) return 0x7fff;
    int exponent = 0;
    std::frexp(x, &exponent);
    const int least = 1 - bias, e = x == 0 ? least : std::max(exponent - 1, least);
    const int bits = static_cast<int>(std::nearbyint(std::ldexp(std::fabs(x), mantissa - e)));
    return static_cast<uint16_t>(bits + (e - least) * (1 << mantissa) + (std::signbit(x) ? 0x8000 : 0));
  }

  double decode(uint16_t bits) const {
    const int fraction = bits % (1 << mantissa), exponent = (bits & 0x7fff) >> mantissa;
    if (exponent == 2 * bias + 1) return kNan;
    const double x = exponent > 0 ? std::ldexp(fraction + (1 << mantissa), exponent - bias - mantissa)
                                  : std::ldexp(fraction, 1 - bias - mantissa);
    return bits & 0x8000 ? -x : x;
  }
};
constexpr Half kBf16 = {7, 127}, kF16 = {10, 15};

struct DtypeTraits {
  const char* name;
  size_t bytes;
  double tolerance;  // relative to the expected value or to 1, whichever is larger
};
// 16-bit dtypes: two units in the last place, since the loop below rounds states as the kernels do.
constexpr DtypeTraits kDtypes[] = {
    {"float32", 4, 2e-5}, {"float64", 8, 1e-11}, {"bfloat16", 2, 1.6e-2}, {"float16", 2, 2e-3}};
constexpr const DtypeTraits& traits(Dtype dtype) { return kDtypes[static_cast<int>(dtype)]; }

// An array and what it must hold after the run: NaN wherever nobody has business.
class Array {
 public:
  Array(const char* name, Dtype dtype, int64_t size)
      : name_(name), dtype_(dtype), data_(new char[size * traits(dtype).bytes]), expected_(size, kNan) {
    for (int64_t i = 0; i < size; ++i) put(i, kNan);
  }

  void* data() const { return data_.get(); }

  double get(int64_t i) const {
    switch (dtype_) {
      case Dtype::f32:
        return reinterpret_cast<const float*>(data_.get())[i];
      case Dtype::f64:
        return reinterpret_cast<const double*>(data_.get())[i];
      case Dtype::bf16:
        return kBf16.decode(reinterpret_cast<const uint16_t*>(data_.get())[i]);
      case Dtype::f16:
        return kF16.decode(reinterpret_cast<const uint16_t*>(data_.get())[i]);
    }
    return kNan;
  }

  void put(int64_t i, double x) {
    switch (dtype_) {
      case Dtype::f32:
        reinterpret_cast<float*>(data_.get())[i] = static_cast<float>(x);
        break;
      case Dtype::f64:
        reinterpret_cast<double*>(data_.get())[i] = x;
        break;
      case Dtype::bf16:
        reinterpret_cast<uint16_t*>(data_.get())[i] = kBf16.encode(x);
        break;
      case Dtype::f16:
        reinterpret_cast<uint16_t*>(data_.get())[i] = kF16.encode(x);
        break;
    }
    expected_[i] = get(i);
  }

  // Returns what a kernel would read back.
  double expect(int64_t i, double x) {
    expected_[i] = x;
    if (dtype_ == Dtype::bf16) expected_[i] = kBf16.decode(kBf16.encode(x));
    if (dtype_ == Dtype::f16) expected_[i] = kF16.decode(kF16.encode(x));
    return expected_[i];
  }

  // Empty if all is well.
  std::string mismatch() const {
    for (size_t i = 0; i < expected_.size(); ++i) {
      const double actual = get(i), expected = expected_[i];
      const bool same =
          std::isnan(expected)
              ? std::isnan(actual)
              : std::fabs(actual - expected) <= traits(dtype_).tolerance * std::max(1., std::fabs(expected));
      if (!same) {
        char text[128];
        std::snprintf(text, sizeof text, "%s[%zu of %zu] is %.17g, expected %.17g", name_, i,
                      expected_.size(), actual, expected);
        return text;
      }
    }
    return "";
  }

 private:
  const char* name_;
  Dtype dtype_;
  std::unique_ptr<char[]> data_;
  std::vector<double> expected_;
};

struct Split {
  int workers, crew;
  WeightLayout weights;
};
constexpr Split kSplits[] = {{1, 1, WeightLayout::packed}, {1, 1, WeightLayout::in_place},
                             {3, 1, WeightLayout::packed}, {3, 1, WeightLayout::in_place},
                             {2, 2, WeightLayout::packed}, {2, 2, WeightLayout::in_place},
                             {4, 2, WeightLayout::packed}, {4, 2, WeightLayout::in_place},
                             {3, 3, WeightLayout::packed}, {3, 3, WeightLayout::in_place}};
constexpr int kCombinations = std::size(kSplits) * std::size(kDtypes) * 2;

class Trial {
 public:
  // Consecutive numbers go through all combinations of split, dtype and pass; the rest is drawn.
  Trial(int number, uint64_t seed) : random_(seed * 1000003 + number) {
    split_ = kSplits[number % std::size(kSplits)];
    dtype_ = static_cast<Dtype>(number / std::size(kSplits) % std::size(kDtypes));
    pass_ = number / (std::size(kSplits) * std::size(kDtypes)) % 2 ? Pass::bptt : Pass::forward;
    relu_ = chance(2);
    H_ = one_of({1, 5, 17, 33, 64, 65, 130});
    r_.T = one_of({1, 2, 5}), r_.B = one_of({1, 3, 7, 13}), r_.G = one_of({1, 2}), r_.units[0] = H_;
    r_.direction = static_cast<Direction>(one_of({0, 1, 2}));
    ragged_ = chance(2), packed_ = ragged_ && !chance(4);
    if (ragged_) {
      counts_.resize(r_.T), offsets_.resize(r_.T);
      int64_t rows = 0, count = r_.B;
      for (int64_t t = 0; t < r_.T; ++t) {
        counts_[t] = count, offsets_[t] = rows;
        rows += count;
        count = std::uniform_int_distribution<int64_t>(1, count)(random_);
      }
      r_.counts = counts_.data();
      if (packed_) r_.offsets = offsets_.data();
    }
    pass_ == Pass::forward ? forward() : bptt();
  }

  void run() {
    Plan plan;
    plan.schedule = split_.crew > 1 ? Schedule::unit_split : Schedule::batch_split;
    plan.workers = split_.workers, plan.crew = split_.crew, plan.weights = split_.weights;
    run_elman(r_, relu_ ? Cell::elman_relu : Cell::elman_tanh, pass_, dtype_, plan);
  }

  std::string mismatch() const {
    std::string found;
    for (const auto& array : arrays_)
      if (found.empty()) found = array->mismatch();
    return found;
  }

  std::string name() const {
    const char* directions[] = {"forward in time", "reverse", "bidirectional"};
    std::string text = relu_ ? "relu" : "tanh";
    text += pass_ == Pass::forward ? " forward " : " bptt ";
    text += traits(dtype_).name;
    for (const auto& [letter, size] : {std::pair{" T=", r_.T}, {" B=", r_.B}, {" H=", H_}, {" G=", r_.G}})
      text += letter + std::to_string(size);
    text += std::string(" ") + directions[static_cast<int>(r_.direction)];
    text += packed_ ? " packed" : ragged_ ? " ragged" : "";
    return text + options_ + " workers=" + std::to_string(split_.workers) +
           " crew=" + std::to_string(split_.crew) + " weights=" + rnnfast::name(split_.weights);
  }

 private:
  bool chance(int n) { return random_() % n == 0; }
  int64_t one_of(const std::vector<int64_t>& values) { return values[random_() % values.size()]; }
  double uniform() { return std::uniform_real_distribution<double>(-1, 1)(random_); }
  // Matrices whose rows and columns sum to less than 1: states do not grow from step to step.
  double weight() { return std::copysign(0.75 + uniform() / 4, uniform()) / static_cast<double>(H_); }
  double state() {
    const double h = uniform();
    return relu_ && h < 0 ? 0 : h;
  }

  // Rows may lie apart, with NaN between them.
  int64_t row_length() { return chance(3) ? H_ + 3 : H_; }
  bool given(const char* name, int n = 2) {
    const bool yes = !chance(n);
    if (yes) options_ += std::string(" ") + name;
    return yes;
  }

  Array* array(const char* name, int64_t size) {
    arrays_.push_back(std::make_unique<Array>(name, dtype_, size));
    return arrays_.back().get();
  }

  // Calls visit(g, t, b) for each row of values of a stream.
  template <class Visit>
  void each_row(const Visit& visit) const {
    for (int64_t g = 0; g < r_.G; ++g)
      for (int64_t t = 0; t < r_.T; ++t)
        for (int64_t b = 0; b < r_.active(t); ++b) visit(g, t, b);
  }
  int64_t place(const Stream& s, int64_t g, int64_t t, int64_t b) const {
    return r_.position(s, g, t) + b * s.row;
  }
  static int64_t place(const End& e, int64_t g, int64_t b) { return g * e.group + b * e.row; }

  template <class Draw>
  Array* stream(int index, const char* name, const Draw& draw) {
    Stream& s = r_.streams[index];
    const int64_t row = row_length(), order = chance(3) ? 2 : chance(2);
    if (packed_) {
      s.group = row, s.row = r_.G * row;
    } else if (order == 0) {  // time first
      s.group = row, s.row = r_.G * row, s.step = r_.B * s.row;
    } else if (order == 1) {  // batch first
      s.group = row, s.step = r_.G * row, s.row = r_.T * s.step;
    } else {  // groups first
      s.row = row, s.step = r_.B * row, s.group = r_.T * s.step;
    }
    int64_t size = 0;
    each_row([&](int64_t g, int64_t t, int64_t b) { size = std::max(size, place(s, g, t, b) + H_); });
    Array* a = array(name, size);
    s.data = a->data();
    each_row([&](int64_t g, int64_t t, int64_t b) {
      for (int64_t j = 0; j < H_; ++j) a->put(place(s, g, t, b) + j, draw());
    });
    return a;
  }

  template <class Draw>
  Array* end(int index, const char* name, const Draw& draw) {
    End& e = r_.ends[index];
    e.row = row_length(), e.group = r_.B * e.row;
    Array* a = array(name, place(e, r_.G - 1, r_.B - 1) + H_);
    e.data = a->data();
    for (int64_t g = 0; g < r_.G; ++g)
      for (int64_t b = 0; b < r_.B; ++b)
        for (int64_t j = 0; j < H_; ++j) a->put(place(e, g, b) + j, draw());
    return a;
  }

  Array* matrix() {
    Matrix& m = r_.matrices[0];
    m.row = row_length(), m.group = H_ * m.row, m.rows = m.columns = H_;
    Array* a = array("w_hh", (r_.G * H_ - 1) * m.row + H_);
    m.data = a->data();
    for (int64_t i = 0; i < r_.G * H_; ++i)
      for (int64_t j = 0; j < H_; ++j) a->put(i * m.row + j, weight());
    return a;
  }

  Array* vector(int index) {
    Vector& v = r_.vectors[index];
    v.group = row_length();
    Array* a = array("bias", (r_.G - 1) * v.group + H_);
    v.data = a->data();
    for (int64_t g = 0; g < r_.G; ++g)
      for (int64_t j = 0; j < H_; ++j) a->put(g * v.group + j, uniform());
    return a;
  }

  // Calls step(t) for each step in the order in which group g is processed.
  template <class Step>
  void in_order(int64_t g, const Step& step) const {
    const bool descending = r_.reversed(g) != (pass_ == Pass::bptt);
    for (int64_t i = 0; i < r_.T; ++i) step(descending ? r_.T - 1 - i : i);
  }

  void forward() {
    using Places = Elman<Tanh>::Forward;
    const auto any = [&] { return uniform(); };
    const auto nothing = [] { return kNan; };
    const Array* gates = stream(Places::kGates, "gates", any);
    Array* y = nullptr;
    if (given("in-place")) {  // states take the place of gates
      y = arrays_.back().get();
      r_.streams[Places::kY] = r_.streams[Places::kGates];
    } else {
      y = stream(Places::kY, "y", nothing);
    }
    const Array* h0 = given("h0") ? end(Places::kH0, "h0", any) : nullptr;
    Array* h_n = given("h_n", 4) ? end(Places::kHN, "h_n", nothing) : nullptr;
    const Array* bias = given("bias") ? vector(Places::kBias) : nullptr;
    const Array* w = matrix();
    const Matrix& m = r_.matrices[0];

    for (int64_t g = 0; g < r_.G; ++g) {
      std::vector<std::vector<double>> h(r_.B, std::vector<double>(H_));
      for (int64_t b = 0; h0 && b < r_.B; ++b)
        for (int64_t j = 0; j < H_; ++j) h[b][j] = h0->get(place(r_.ends[Places::kH0], g, b) + j);
      in_order(g, [&](int64_t t) {
        for (int64_t b = 0; b < r_.active(t); ++b) {
          std::vector<double> next(H_);
          for (int64_t j = 0; j < H_; ++j) {
            double x = gates->get(place(r_.streams[Places::kGates], g, t, b) + j);
            if (bias) x += bias->get(g * r_.vectors[Places::kBias].group + j);
            for (int64_t k = 0; k < H_; ++k) x += w->get(g * m.group + j * m.row + k) * h[b][k];
            x = relu_ ? std::max(x, 0.) : std::tanh(x);
            next[j] = y->expect(place(r_.streams[Places::kY], g, t, b) + j, x);
          }
          h[b] = next;
        }
      });
      for (int64_t b = 0; h_n && b < r_.B; ++b)
        for (int64_t j = 0; j < H_; ++j) h_n->expect(place(r_.ends[Places::kHN], g, b) + j, h[b][j]);
    }
  }

  void bptt() {
    using Places = Elman<Tanh>::Adjoint;
    const auto any = [&] { return uniform(); };
    const auto nothing = [] { return kNan; };
    const Array* y = stream(Places::kY, "y", [&] { return state(); });
    const Array* dy = given("dy", 4) ? stream(Places::kDy, "dy", any) : nullptr;
    const Array* dh_n = !dy || given("dh_n") ? end(Places::kDhN, "dh_n", any) : nullptr;
    Array* dgates = stream(Places::kDGates, "dgates", nothing);
    const Array* w = matrix();
    const Matrix& m = r_.matrices[0];

    for (int64_t g = 0; g < r_.G; ++g) {
      std::vector<std::vector<double>> dh(r_.B, std::vector<double>(H_));
      for (int64_t b = 0; dh_n && b < r_.B; ++b)
        for (int64_t j = 0; j < H_; ++j) dh[b][j] = dh_n->get(place(r_.ends[Places::kDhN], g, b) + j);
      in_order(g, [&](int64_t t) {
        for (int64_t b = 0; b < r_.active(t); ++b) {
          std::vector<double> before(H_);
          for (int64_t j = 0; j < H_; ++j) {
            const double h = y->get(place(r_.streams[Places::kY], g, t, b) + j);
            const double slope = !relu_ ? 1 - h * h : h > 0 ? 1 : 0;
            const double d = dy ? dy->get(place(r_.streams[Places::kDy], g, t, b) + j) : 0;
            const double dgate = slope * (dh[b][j] + d);
            dgates->expect(place(r_.streams[Places::kDGates], g, t, b) + j, dgate);
            for (int64_t k = 0; k < H_; ++k) before[k] += w->get(g * m.group + j * m.row + k) * dgate;
          }
          dh[b] = before;
        }
      });
    }
  }

  std::mt19937_64 random_;
  Split split_;
  Dtype dtype_;
  Pass pass_;
  bool relu_, ragged_, packed_;
  int64_t H_;
  Recurrence r_;
  std::vector<int64_t> counts_, offsets_;
  std::vector<std::unique_ptr<Array>> arrays_;
  std::string options_;
};

std::string current;  // the problem that runs

}  // namespace

// Of the sanitizers' runtime: what to call before ending the process with a report.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

int main(int argc, char** argv) {
  const int problems = std::max(kCombinations, argc > 1 ? std::atoi(argv[1]) : 320);
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
  const int only = argc > 3 ? std::atoi(argv[3]) : -1;
  if (__sanitizer_set_death_callback)
    __sanitizer_set_death_callback([] { std::fprintf(stderr, "in %s\n", current.c_str()); });
  for (int number = 0; number < problems; ++number) {
    if (only >= 0 && number != only) continue;
    Trial trial(number, seed);
    current = "problem " + std::to_string(number) + " of seed " + std::to_string(seed) + ": " + trial.name();
    if (only >= 0) std::fprintf(stderr, "%s\n", current.c_str());
    std::thread([&] { trial.run(); }).join();
    const std::string mismatch = trial.mismatch();
    if (!mismatch.empty()) {
      std::fprintf(stderr, "%s: %s\n", current.c_str(), mismatch.c_str());
      return 1;
    }
  }
  std::printf("%d problems\n", only >= 0 ? 1 : problems);
}
