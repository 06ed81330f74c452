// The CPU kernels, or with tests/cuda_host those for CUDA, on many small problems, compared with a plain loop
// in double precision; made to be compiled with sanitizers, without torch. Every array is a heap block of its
// own, exactly as long as it must be, and each problem runs in a fresh thread, so that its working memory
// (Arena) is exactly as long as well.
//
//   driver [problems [seed [only]]]    `only`: run just the problem of that number
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "arrays.h"
#include "cpu/kernels.h"
#include "oracle.h"

namespace rnnfast::driver {

struct Split {
  int workers, crew;
  WeightLayout weights;
};
#if defined(RNNFAST_CUDA_HOST)
constexpr Split kSplits[] = {{1, 1, WeightLayout::packed}, {2, 2, WeightLayout::packed},
                             {2, 1, WeightLayout::packed}, {3, 1, WeightLayout::packed},
                             {4, 1, WeightLayout::packed}, {5, 1, WeightLayout::packed},
                             {6, 1, WeightLayout::packed}};
#else
constexpr Split kSplits[] = {{1, 1, WeightLayout::packed}, {1, 1, WeightLayout::in_place},
                             {3, 1, WeightLayout::packed}, {3, 1, WeightLayout::in_place},
                             {2, 2, WeightLayout::packed}, {2, 2, WeightLayout::in_place},
                             {4, 2, WeightLayout::packed}, {4, 2, WeightLayout::in_place},
                             {3, 3, WeightLayout::packed}, {3, 3, WeightLayout::in_place}};
#endif

struct Arithmetic {
  const char* name;
  Dtype dtype;
  double tolerance;
  bool int8 = false;  // weights of 8 bits, in forward passes
};
// 16-bit dtypes: two units in the last place, since the oracle rounds states as the kernels do. With weights
// of 8 bits what they multiply is rounded to 16.
constexpr Arithmetic kArithmetics[] = {{"float32", Dtype::f32, 5e-6},
                                       {"float64", Dtype::f64, 1e-13},
                                       {"bfloat16", Dtype::bf16, 1.6e-2},
                                       {"float16", Dtype::f16, 2e-3},
#if !defined(RNNFAST_CUDA_HOST)
                                       {"int8", Dtype::f32, 1e-4, true}
#endif
};

struct Kind {
  const char* name;
  Cell cell;
  bool projected = false;
};
constexpr Kind kKinds[] = {{"elman tanh", Cell::elman_tanh},
                           {"elman relu", Cell::elman_relu},
                           {"lstm", Cell::lstm},
                           {"lstm with projection", Cell::lstm, true},
                           {"gru", Cell::gru}};

constexpr Pass kPasses[] = {Pass::forward, Pass::bptt};
constexpr int kCombinations =
    std::size(kSplits) * std::size(kArithmetics) * std::size(kKinds) * std::size(kPasses);

enum class Content { nothing, values };

class Trial {
 public:
  // Consecutive numbers go through all combinations of split, arithmetic, cell and pass; the rest is drawn.
  Trial(int number, uint64_t seed) : random_(seed * 1000003 + number) {
    split_ = take(kSplits, number), arithmetic_ = take(kArithmetics, number), kind_ = take(kKinds, number);
    pass_ = arithmetic_.int8 ? Pass::forward : take(kPasses, number);
    draw_sizes();
    draw_steps();
    pass_ == Pass::forward ? forward() : bptt();
  }

  void run() {
    Plan plan;
    plan.schedule = split_.crew > 1 ? Schedule::unit_split : Schedule::batch_split;
    plan.workers = split_.workers, plan.crew = split_.crew, plan.weights = split_.weights;
    if (lstm()) {
      run_lstm(r_, pass_, arithmetic_.dtype, plan);
    } else if (gru()) {
      run_gru(r_, pass_, arithmetic_.dtype, plan);
    } else {
      run_elman(r_, kind_.cell, pass_, arithmetic_.dtype, plan);
    }
  }

  std::string mismatch() const {
    std::string found;
    for (const auto& array : arrays_)
      if (found.empty()) found = array->mismatch(arithmetic_.tolerance);
    return found;
  }

  std::string name() const {
    const char* directions[] = {"forward in time", "reverse", "bidirectional"};
    std::string text = kind_.name;
    text += pass_ == Pass::forward ? " forward " : " bptt ";
    text += arithmetic_.name;
    for (const auto& [letter, size] :
         {std::pair{" T=", r_.T}, {" B=", r_.B}, {" I=", I_}, {" H=", H_}, {" P=", P_}, {" G=", r_.G}})
      text += letter + std::to_string(size);
    text += std::string(" ") + directions[static_cast<int>(r_.direction)];
    text += packed_ ? " packed" : r_.origins ? " origins" : ragged_ ? " ragged" : "";
    return text + options_ + " workers=" + std::to_string(split_.workers) +
           " crew=" + std::to_string(split_.crew) + " weights=" + rnnfast::name(split_.weights);
  }

 private:
  template <class T, size_t N>
  static T take(const T (&of)[N], int& number) {
    const T one = of[number % N];
    number /= N;
    return one;
  }

  bool chance(int64_t n) { return random_() % n == 0; }
  int64_t one_of(const std::vector<int64_t>& values) { return values[random_() % values.size()]; }
  double uniform() { return std::uniform_real_distribution<double>(-1, 1)(random_); }
  bool given(const char* name, int n = 2) {
    const bool yes = !chance(n);
    if (yes) options_ += std::string(" ") + name;
    return yes;
  }

  bool lstm() const { return kind_.cell == Cell::lstm; }
  bool gru() const { return kind_.cell == Cell::gru; }

  // Some sequences are long, with many rows: what is computed ahead of their steps takes several chunks.
  void draw_sizes() {
    const bool many = chance(8);
    r_.T = many ? one_of({20, 40}) : one_of({1, 2, 5}),
    r_.B = many ? one_of({13, 29, 60}) : one_of({1, 3, 7, 13});
    H_ = many ? one_of({5, 17, 33}) : one_of({1, 5, 17, 33, 64, 65, 130});
    P_ = kind_.projected ? one_of({1, 4, 17, 33, 70}) : H_;
    I_ = !many && H_ < 64 && chance(4) ? one_of({270, 530}) : one_of({1, 2, 7, 31, 64});
    K_ = gates(kind_.cell) * H_;
    r_.G = one_of({1, 2});
    r_.units[0] = H_, r_.units[1] = kind_.projected ? P_ : 0;
    r_.direction = static_cast<Direction>(one_of({0, 1, 2}));
  }

  void draw_steps() {
    padded_T_ = r_.T, padded_B_ = r_.B;
    ragged_ = chance(2), packed_ = ragged_ && !chance(3);
    if (!ragged_) return;
    int64_t rows = 0, count = r_.B;
    for (int64_t t = 0; t < r_.T; ++t) {
      counts_.push_back(count), offsets_.push_back(rows);
      rows += count;
      if (chance(1 + r_.T / 5)) count = std::uniform_int_distribution<int64_t>(1, count)(random_);
    }
    r_.counts = counts_.data();
    if (packed_) r_.offsets = offsets_.data();
    if (!packed_ && takes_origins() && chance(2)) draw_origins();
  }

  static constexpr bool takes_origins() {
#ifdef RNNFAST_CUDA_HOST
    return false;  // there batches are packed instead
#else
    return true;
#endif
  }

  // Two rows, of whatever lengths, behind one another in each row of the arrays.
  void draw_origins() {
    padded_T_ = 2 * r_.T, padded_B_ = ceil_div(r_.B, 2), batch_first_ = chance(2);
    for (int64_t b = 0; b < r_.B; ++b) {
      const int64_t row = b / 2, step = b % 2 * r_.T;
      origins_.push_back(batch_first_ ? row * padded_T_ + step : step * padded_B_ + row);
    }
    r_.origins = origins_.data(), r_.padded = padded_T_ * padded_B_;
  }

  // Rows may lie apart, with NaN between them.
  int64_t row_length(int64_t width) { return chance(3) ? width + 3 : width; }

  Array* array(const char* name, Format format, const Strides& strides, int64_t size) {
    arrays_.push_back(std::make_unique<Array>(name, format, strides, size));
    return arrays_.back().get();
  }
  // In the dtype of the pass.
  Array* array(const char* name, const Strides& strides, int64_t size) {
    return array(name, static_cast<Format>(arithmetic_.dtype), strides, size);
  }

  // Calls visit(g, t, b) for each row of values of a stream.
  template <class Visit>
  void each_row(const Visit& visit) const {
    for (int64_t g = 0; g < r_.G; ++g)
      for (int64_t t = 0; t < r_.T; ++t)
        for (int64_t b = 0; b < r_.active(t); ++b) visit(g, t, b);
  }

  void draw_row(Array* a, int64_t g, int64_t t, int64_t b, int64_t width, double scale = 1) {
    for (int64_t j = 0; j < width; ++j) a->put(g, t, b, j, scale * uniform());
  }

  // `shared`: the same for all groups.
  Strides stream_strides(int64_t row, bool shared) {
    const int64_t order = chance(3) ? 2 : chance(2), groups = shared ? 1 : r_.G;
    Strides s{row, 0, groups * row, r_.offsets, r_.origins};
    if (r_.origins) {
      if (order == 2) s.row = row, s.group = padded_T_ * padded_B_ * row;
      s.step = batch_first_ ? s.row : padded_B_ * s.row;
    } else if (!packed_ && order == 0) {  // time first
      s.step = padded_B_ * s.row;
    } else if (!packed_ && order == 1) {  // batch first
      s.step = groups * row, s.row = padded_T_ * s.step;
    } else if (!packed_) {  // groups first
      s.row = row, s.step = padded_B_ * row, s.group = padded_T_ * s.step;
    }
    if (shared) s.group = 0;
    return s;
  }

  Array* stream(const char* name, int64_t width, Content content, bool shared = false) {
    const Strides s = stream_strides(row_length(width), shared);
    int64_t size = 0;
    each_row([&](int64_t g, int64_t t, int64_t b) { size = std::max(size, s.place(g, t, b) + width); });
    Array* a = array(name, s, size);
    if (content == Content::values)
      each_row([&](int64_t g, int64_t t, int64_t b) { draw_row(a, g, t, b, width); });
    return a;
  }

  Array* end(const char* name, int64_t width, Content content) {
    const int64_t row = row_length(width);
    const Strides s{r_.B * row, 0, row};
    Array* a = array(name, s, s.place(r_.G - 1, 0, r_.B - 1) + width);
    for (int64_t i = 0; content == Content::values && i < r_.G * r_.B; ++i)
      draw_row(a, i / r_.B, 0, i % r_.B, width);
    return a;
  }

  Array* vector(int index, const char* name, int64_t width) {
    const Strides s{row_length(width)};
    Array* a = array(name, s, s.place(r_.G - 1, 0, 0) + width);
    for (int64_t g = 0; g < r_.G; ++g) draw_row(a, g, 0, 0, width);
    r_.vectors[index] = {a->data(), s.group};
    return a;
  }

  Array* matrix(int index, const char* name, int64_t parts, int64_t units, int64_t columns, double scale) {
    if (arithmetic_.int8) return int8_matrix(index, name, parts, units, columns, scale);
    const int64_t rows = parts * units, row = row_length(columns);
    const Strides s{rows * row, 0, row};
    Array* a = array(name, s, s.place(r_.G - 1, 0, rows - 1) + columns);
    for (int64_t i = 0; i < r_.G * rows; ++i) draw_row(a, i / rows, 0, i % rows, columns, scale);
    r_.matrices[index] = {a->data(), s.group, s.row, rows, columns};
    return a;
  }

  // Arranged as cpu/int8.h says; returns what it stands for.
  Array* int8_matrix(int index, const char* name, int64_t parts, int64_t units, int64_t columns,
                     double scale) {
    constexpr int64_t kBlock = 16;
    const int64_t rows = parts * units, lanes = parts * kBlock;
    const int64_t blocks = ceil_div(units, kBlock), pairs = ceil_div(columns, 2);
    Array* q = array(name, Format::i8, {blocks * pairs * 2 * lanes, pairs * 2 * lanes, 2 * lanes},
                     r_.G * blocks * pairs * 2 * lanes);
    Array* scales = array("scales", Format::f32, {blocks * lanes, lanes, kBlock}, r_.G * blocks * lanes);
    Array* exact = array(name, Format::f64, {rows * columns, 0, columns}, r_.G * rows * columns);
    scales->fill(0);
    for (int64_t i = 0; i < r_.G * rows; ++i) {
      const int64_t g = i / rows, part = i % rows / units, unit = i % units;
      const int64_t block = unit / kBlock, lane = unit % kBlock;
      scales->put(g, block, part, lane, scale / 127 * (0.75 + uniform() / 4));
      const double own_scale = scales->row(g, block, part)[lane];
      for (int64_t k = 0; k < columns; ++k) {
        const double whole = std::round(127 * uniform());
        q->put(g, block, k / 2, 2 * (part * kBlock + lane) + k % 2, whole);
        exact->put(g, 0, i % rows, k, own_scale * whole);
      }
    }
    r_.matrices[index] = {q->data(), 0, 0, rows, columns, static_cast<const float*>(scales->data())};
    return exact;
  }

  void use(int place, const Array* a) {
    if (a) r_.streams[place] = {a->data(), a->strides().group, a->strides().step, a->strides().row};
  }
  void use_end(int place, const Array* a) {
    if (a) r_.ends[place] = {a->data(), a->strides().group, a->strides().row};
  }

  // What a forward pass reads. Multiplying by w_hh or w_hr, transposed or not, does not make rows longer, so
  // that states do not grow from step to step.
  void draw_layer(bool projects) {
    using Places = ForwardPlaces;
    const double scale = 0.5 / std::sqrt(std::max(H_, P_));
    const int64_t parts = gates(kind_.cell);
    if (projects) {
      a_.input = stream("input", I_, Content::values, given("shared"));
      a_.w_ih = matrix(Places::kWih, "w_ih", parts, H_, I_, 1 / std::sqrt(I_));
    } else {
      a_.gates = stream("gates", K_, Content::values);
    }
    a_.w_hh = matrix(Places::kWhh, "w_hh", parts, H_, P_, scale);
    if (kind_.projected) a_.w_hr = matrix(Places::kWhr, "w_hr", 1, P_, H_, scale);
    if (given("bias")) a_.bias = vector(Places::kBias, "bias", gru() ? K_ + H_ : K_);
    if (given("h0")) a_.h0 = end("h0", P_, Content::values);
    if (lstm() && given("c0")) a_.c0 = end("c0", H_, Content::values);
  }

  // What it leaves for BPTT; `all`, or some.
  void make_saved(bool all) {
    const auto saved = [&](const char* name, int64_t width, bool has) {
      return has && (all || given(name)) ? stream(name, width, Content::nothing) : nullptr;
    };
    a_.activations = saved("activations", K_, lstm() || gru());
    a_.c = saved("c", H_, lstm());
    a_.inner = saved("inner", H_, gru() || kind_.projected);
  }

  void forward() {
    using Places = ForwardPlaces;
    draw_layer(given("input"));
    const bool may_replace = a_.gates && K_ == P_ && !lstm();
    a_.y = may_replace && given("in-place") ? a_.gates : stream("y", P_, Content::nothing);
    make_saved(false);
    if (given("h_n", 4)) a_.h_n = end("h_n", P_, Content::nothing);
    if (lstm() && given("c_n", 4)) a_.c_n = end("c_n", H_, Content::nothing);
    use(Places::kGates, a_.gates), use(Places::kInput, a_.input), use(Places::kY, a_.y);
    use(Places::kActivations, a_.activations), use(Places::kC, a_.c), use(Places::kInner, a_.inner);
    use_end(Places::kH0, a_.h0), use_end(Places::kHN, a_.h_n);
    use_end(Places::kC0, a_.c0), use_end(Places::kCN, a_.c_n);
    Oracle(r_, kind_.cell, a_).forward();
  }

  // The forward pass before it is the oracle's.
  void bptt() {
    using Places = AdjointPlaces;
    draw_layer(false);
    a_.y = stream("y", P_, Content::nothing);
    make_saved(true);
    Oracle(r_, kind_.cell, a_).forward();
    for (Array* read : {a_.y, a_.activations, a_.c, a_.inner})
      if (read) read->put_expected();

    draw_loss();
    const auto wanted = [&](const char* name, int64_t width, bool has) {
      return has && given(name, 4) ? stream(name, width, Content::nothing) : nullptr;
    };
    a_.dgates = stream("dgates", K_, Content::nothing);
    a_.dinner = wanted("dinner", H_, gru()), a_.dh = wanted("dh", P_, kind_.projected);
    if (gru() && given("dh0")) a_.dh0 = end("dh0", H_, Content::nothing);
    if (lstm() && given("dc0")) a_.dc0 = end("dc0", H_, Content::nothing);
    use(Places::kDy, a_.dy), use(Places::kDc, a_.dc), use(Places::kY, a_.y), use(Places::kC, a_.c);
    use(Places::kActivations, a_.activations), use(Places::kInner, a_.inner);
    use(Places::kDGates, a_.dgates), use(Places::kDInner, a_.dinner), use(Places::kDh, a_.dh);
    use_end(Places::kDhN, a_.dh_n), use_end(Places::kDcN, a_.dc_n);
    use_end(Places::kH0, a_.h0), use_end(Places::kC0, a_.c0);
    use_end(Places::kDh0, a_.dh0), use_end(Places::kDc0, a_.dc0);
    if (given("clip")) r_.clip = 0.4;
    if (given("norms")) note_norms();
    Oracle(r_, kind_.cell, a_).adjoint();
  }

  void note_norms() {
    const Format format = arithmetic_.dtype == Dtype::f64 ? Format::f64 : Format::f32;
    const Strides s{1, packed_ ? 0 : (batch_first_ ? 1 : padded_B_) * r_.G, r_.G, r_.offsets, r_.origins};
    a_.norms = array("norms", format, s, r_.positions());
    r_.norms = {a_.norms->data(), s.group, s.step, s.row};
  }

  // Derivatives of the loss.
  void draw_loss() {
    if (given("dy", 4)) a_.dy = stream("dy", P_, Content::values);
    if (lstm() && given("dc")) a_.dc = stream("dc", H_, Content::values);
    if (lstm() && given("dc_n")) a_.dc_n = end("dc_n", H_, Content::values);
    if (!a_.dy || given("dh_n")) a_.dh_n = end("dh_n", P_, Content::values);
  }

  std::mt19937_64 random_;
  Split split_;
  Arithmetic arithmetic_;
  Kind kind_;
  Pass pass_;
  bool ragged_, packed_, batch_first_ = false;
  int64_t I_, H_, P_, K_;
  Recurrence r_;
  int64_t padded_T_, padded_B_;
  std::vector<int64_t> counts_, offsets_;
  std::vector<int64_t> origins_;
  std::vector<std::unique_ptr<Array>> arrays_;
  LayerArrays a_;
  std::string options_;
};

std::string current;  // the problem that runs

int run(int problems, uint64_t seed, int only) {
  for (int number = 0; number < problems; ++number) {
    if (only >= 0 && number != only) continue;
    Trial trial(number, seed);
    current = "problem " + std::to_string(number) + " of seed " + std::to_string(seed) + ": " + trial.name();
    if (only >= 0) std::fprintf(stderr, "%s\n", current.c_str());
    std::thread([&] { trial.run(); }).join();
    const std::string mismatch = trial.mismatch();
    if (mismatch.empty()) continue;
    std::fprintf(stderr, "%s: %s\n", current.c_str(), mismatch.c_str());
    return 1;
  }
  std::printf("%d problems\n", only >= 0 ? 1 : problems);
  return 0;
}

}  // namespace rnnfast::driver

// Of the sanitizers' runtime: what to call before ending the process with a report.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

int main(int argc, char** argv) {
  using namespace rnnfast::driver;
  const int problems = std::max(kCombinations, argc > 1 ? std::atoi(argv[1]) : kCombinations);
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
  if (__sanitizer_set_death_callback)
    __sanitizer_set_death_callback([] { std::fprintf(stderr, "in %s\n", current.c_str()); });
  return run(problems, seed, argc > 3 ? std::atoi(argv[3]) : -1);
}
