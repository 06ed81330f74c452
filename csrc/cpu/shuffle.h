// Lanes of several vectors exchanged: transposition, and sums of lanes.
#pragma once

#include <utility>

#include "vec.h"

namespace rnnfast {
namespace detail {

// Half 0 or 1 of a and b interleaved: a0 b0 a1 b1 ...
template <int kHalf, class V, size_t... I>
inline V interleave(V a, V b, std::index_sequence<I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(a, b, (kHalf * (n / 2) + static_cast<int>(I) / 2 + (I % 2 ? n : 0))...);
}

// Neighbouring lanes added: those of a first, then those of b.
template <class V, size_t... I>
inline V add_neighbours(V a, V b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, (2 * static_cast<int>(I))...) +
         __builtin_shufflevector(a, b, (2 * static_cast<int>(I) + 1)...);
}

}  // namespace detail

// v as a square matrix, a row in each vector, transposed. Each of the log2(n) rounds is a perfect shuffle of
// all n * n values.
template <class T>
inline void transpose(Vec<T> (&v)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
  constexpr auto lanes = std::make_index_sequence<n>{};
#pragma GCC unroll 4
  for (int round = 1; round < n; round *= 2) {
    Vec<T> next[n];
#pragma GCC unroll 16
    for (int i = 0; i < n / 2; ++i) {
      next[2 * i] = detail::interleave<0>(v[i], v[i + n / 2], lanes);
      next[2 * i + 1] = detail::interleave<1>(v[i], v[i + n / 2], lanes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) v[i] = next[i];
  }
}

// Lane j of the result is the sum of the lanes of v[j], added as a binary tree.
template <class T>
inline Vec<T> sums_of_lanes(const Vec<T> (&v)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
  constexpr auto lanes = std::make_index_sequence<n>{};
  Vec<T> s[n];
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) s[i] = v[i];
#pragma GCC unroll 4
  for (int left = n / 2; left > 0; left /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < left; ++i) s[i] = detail::add_neighbours(s[2 * i], s[2 * i + 1], lanes);
  }
  return s[0];
}

}  // namespace rnnfast
