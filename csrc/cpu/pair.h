// Two vectors of units as one: the accessor of cells/cell.h for both. What a cell does to the one does not
// wait for what it does to the other.
#pragma once

#include "accessor.h"

namespace rnnfast {

template <class V>
struct Pair {
  V first, second;

  friend RNNFAST_INLINE Pair operator+(Pair a, Pair b) { return {a.first + b.first, a.second + b.second}; }
  friend RNNFAST_INLINE Pair operator-(Pair a, Pair b) { return {a.first - b.first, a.second - b.second}; }
  friend RNNFAST_INLINE Pair operator*(Pair a, Pair b) { return {a.first * b.first, a.second * b.second}; }
  template <class X>
  friend RNNFAST_INLINE Pair operator-(X x, Pair a) {
    return {x - a.first, x - a.second};
  }
};

template <class At>
class PairAccessor {
 public:
  using Value = Pair<typename At::Value>;
  using Scalar = typename At::Scalar;
  static constexpr bool kNoisy = At::kNoisy;

  PairAccessor(At& first, At& second) : first_(first), second_(second) {}

  Value matrix(int gate) const { return {first_.matrix(gate), second_.matrix(gate)}; }
  Value load(int s, int part = 0) const { return {first_.load(s, part), second_.load(s, part)}; }
  Value previous(int s, int part = 0) const { return {first_.previous(s, part), second_.previous(s, part)}; }
  Value following(int s, int part = 0) const {
    return {first_.following(s, part), second_.following(s, part)};
  }
  Value entry(int end) const { return {first_.entry(end), second_.entry(end)}; }
  Value exit(int end) const { return {first_.exit(end), second_.exit(end)}; }
  void leave(int end, Value v) { first_.leave(end, v.first), second_.leave(end, v.second); }
  Value vector(int i, int part = 0) const { return {first_.vector(i, part), second_.vector(i, part)}; }
  Value store(int s, Value v, int part = 0) {
    return {first_.store(s, v.first, part), second_.store(s, v.second, part)};
  }
  void put(int operand, Value v, int part = 0) {
    first_.put(operand, v.first, part), second_.put(operand, v.second, part);
  }
  Value dropout() const { return {first_.dropout(), second_.dropout()}; }
  Kept<Value> kept() const {
    const auto a = first_.kept(), b = second_.kept();
    return {{a.h, b.h}, {a.c, b.c}};
  }
  Value carry(int i) const { return {first_.carry(i), second_.carry(i)}; }
  void keep(int i, Value v) { first_.keep(i, v.first), second_.keep(i, v.second); }

  static RNNFAST_INLINE Value tanh(Value v) { return {At::tanh(v.first), At::tanh(v.second)}; }
  static RNNFAST_INLINE Value sigmoid(Value v) { return {At::sigmoid(v.first), At::sigmoid(v.second)}; }

 private:
  At &first_, &second_;
};

}  // namespace rnnfast
