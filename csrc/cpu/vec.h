// SIMD values of the instruction set that this library is compiled for, in GCC/Clang vector types: arithmetic
// is written with operators, the same for every width. 16-bit dtypes are storage only; they are computed in
// float32 (bf16_dots.h has an exception).
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "../compute.h"
#include "../plan.h"

namespace rnnfast {

#if defined(__AVX512F__)
constexpr Isa kIsa = Isa::avx512;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr Isa kIsa = Isa::avx2;
#else
constexpr Isa kIsa = Isa::baseline;
#endif
constexpr int kVectorBytes = vector_bytes(kIsa);
constexpr int64_t kCacheLine = 64;  // bytes

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

// Calls f with a value of the storage type that a dtype names.
template <class F>
auto with_storage_type(Dtype dtype, const F& f) {
  switch (dtype) {
    case Dtype::f64:
      return f(double{});
    case Dtype::bf16:
      return f(bf16{});
    case Dtype::f16:
      return f(f16{});
    case Dtype::f32:
      break;
  }
  return f(float{});
}

namespace detail {
template <class T>
struct VecOf;
template <>
struct VecOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef float anywhere __attribute__((vector_size(kVectorBytes), aligned(sizeof(float))));
  typedef uint32_t bits __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VecOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef double anywhere __attribute__((vector_size(kVectorBytes), aligned(sizeof(double))));
  typedef uint64_t bits __attribute__((vector_size(kVectorBytes)));
};
// What is stored as 16 bits, and the same wherever it lies.
typedef uint16_t Half16 __attribute__((vector_size(kVectorBytes / 2)));
typedef uint16_t Half16Anywhere __attribute__((vector_size(kVectorBytes / 2), aligned(sizeof(uint16_t))));
}  // namespace detail

// A vector of T, and unsigned integers of the same width and number.
template <class T>
using Vec = typename detail::VecOf<T>::type;
template <class T>
using Bits = typename detail::VecOf<T>::bits;

template <class S>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Compute<S>));

template <class To, class From>
inline To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// IEEE binary16 <-> binary32, round to nearest even, subnormals included.
inline float to_float(f16 h) {
  const uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000u) << 16;
  const uint32_t magnitude = h.bits & 0x7fffu;
  // Moving the fields in place leaves the exponent 112 too small; the multiplication mends that, and makes
  // subnormals normal.
  const float value = bit_cast<float>(magnitude << 13) * bit_cast<float>(0x77800000u);
  const uint32_t bits = magnitude >= 0x7c00u ? 0x7f800000u | (magnitude << 13) : bit_cast<uint32_t>(value);
  return bit_cast<float>(bits | sign);
}

inline f16 to_f16(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // rounds to 65536 or beyond
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 rounds at the right bit
    half = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
  }
  return {static_cast<uint16_t>(half | sign)};
}

inline float to_float(bf16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
inline float to_float(float x) { return x; }
inline double to_float(double x) { return x; }

// By a type that aliases nothing but S: the compiler need not read strides and pointers again after a store.
template <class S>
inline Vec<Compute<S>> load(const S* p) {
  return *reinterpret_cast<const typename detail::VecOf<S>::anywhere*>(p);
}

template <>
inline Vec<float> load(const bf16* p) {
#if defined(__AVX512F__)  // GCC 12 would do it by halves
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return bit_cast<Vec<float>>(_mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, bits), 16));
#endif
  detail::Half16 half;
  std::memcpy(&half, p, sizeof half);
  return bit_cast<Vec<float>>(__builtin_convertvector(half, Bits<float>) << 16);
}

template <>
inline Vec<float> load(const f16* p) {
#if defined(__AVX512F__)
  return bit_cast<Vec<float>>(
      _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__F16C__)
  return bit_cast<Vec<float>>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  Vec<float> v;
  for (int i = 0; i < kLanes<f16>; ++i) v[i] = to_float(p[i]);
  return v;
#endif
}

template <class S>
inline void store(S* p, Vec<Compute<S>> v) {
  *reinterpret_cast<typename detail::VecOf<S>::anywhere*>(p) = v;
}

template <class S>
inline void store_bits(S* p, detail::Half16 bits) {
  *reinterpret_cast<detail::Half16Anywhere*>(p) = bits;
}

inline void store_upper_halves(bf16* p, Bits<float> bits) {
#if defined(__AVX512F__)  // GCC 12 would do it by halves
  store_bits(p, bit_cast<detail::Half16>(_mm512_maskz_cvtepi32_epi16(0xffff, bit_cast<__m512i>(bits >> 16))));
#else
  store_bits(p, __builtin_convertvector(bits >> 16, detail::Half16));
#endif
}

// v rounded to bfloat16, to nearest even: the upper halves of 32 bits.
inline Bits<float> rounded_to_bf16(Vec<float> v) {
  const auto bits = bit_cast<Bits<float>>(v);
  const auto rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return v == v ? rounded : rounded * 0 + 0x7fc00000;
}

template <>
inline void store(bf16* p, Vec<float> v) {
  store_upper_halves(p, rounded_to_bf16(v));
}

template <>
inline void store(f16* p, Vec<float> v) {
#if defined(__AVX512F__)
  store_bits(p, bit_cast<detail::Half16>(_mm512_maskz_cvtps_ph(
                    0xffff, bit_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)));
#elif defined(__F16C__)
  store_bits(p, bit_cast<detail::Half16>(_mm256_cvtps_ph(bit_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT)));
#else
  for (int i = 0; i < kLanes<f16>; ++i) p[i] = to_f16(v[i]);
#endif
}

// Values that were loaded from an array of S: nothing is to be rounded.
template <class S>
inline void store_unchanged(S* p, Vec<Compute<S>> v) {
  store(p, v);
}

template <>
inline void store_unchanged(bf16* p, Vec<float> v) {
  store_upper_halves(p, bit_cast<Bits<float>>(v));
}

#if defined(__AVX512F__)
// The mask of the first lanes.
inline __mmask16 first(int lanes) { return static_cast<__mmask16>((1u << lanes) - 1); }
#endif

// The first `lanes` values only; the others read as zero and are not written.
template <class S>
inline Vec<Compute<S>> load(const S* p, int lanes) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<S, float>) return bit_cast<Vec<float>>(_mm512_maskz_loadu_ps(first(lanes), p));
  if constexpr (std::is_same_v<S, double>)
    return bit_cast<Vec<double>>(_mm512_maskz_loadu_pd(first(lanes), p));
#endif
  S whole[kLanes<S>] = {};
  std::memcpy(whole, p, lanes * sizeof(S));
  return load(whole);
}

template <class S>
inline void store(S* p, Vec<Compute<S>> v, int lanes) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<S, float>) return _mm512_mask_storeu_ps(p, first(lanes), bit_cast<__m512>(v));
  if constexpr (std::is_same_v<S, double>)
    return _mm512_mask_storeu_pd(p, first(lanes), bit_cast<__m512d>(v));
#endif
  S whole[kLanes<S>];
  store(whole, v);
  std::memcpy(p, whole, lanes * sizeof(S));
}

// A row in the dtype that it is computed in.
template <class S>
inline void widen(const S* from, int64_t size, Compute<S>* to) {
  int64_t i = 0;
  for (; i + kLanes<S> <= size; i += kLanes<S>) store(to + i, load(from + i));
  if (i < size) store(to + i, load(from + i, static_cast<int>(size - i)), static_cast<int>(size - i));
}

// Sums, element by element, rounded to S.
template <class S>
void add_rounded(const void* a, const void* b, void* sum, int64_t size) {
  const S *x = static_cast<const S*>(a), *y = static_cast<const S*>(b);
  S* to = static_cast<S*>(sum);
  int64_t i = 0;
  for (; i + kLanes<S> <= size; i += kLanes<S>) store(to + i, load(x + i) + load(y + i));
  if (i < size) {
    const int rest = static_cast<int>(size - i);
    store(to + i, load(x + i, rest) + load(y + i, rest), rest);
  }
}

// Asks for values that lie one behind the other, which will be read. kLocality: as __builtin_prefetch has it,
// 3 for the first level of caches, 2 for the second.
template <int kLocality, class S>
inline void prefetch_values(const S* p, int64_t count) {
  constexpr int64_t kLine = kCacheLine / sizeof(S);
  for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(p + i, 0, kLocality);
}

// v as it reads back after being stored as S.
template <class S>
inline Vec<Compute<S>> rounded(Vec<Compute<S>> v) {
  if constexpr (sizeof(S) == sizeof(Compute<S>)) {
    return v;
  } else if constexpr (std::is_same_v<S, bf16>) {
    return bit_cast<Vec<float>>(rounded_to_bf16(v) & 0xffff0000u);
  } else {
    S whole[kLanes<S>];
    store(whole, v);
    return load(whole);
  }
}

template <class S>
inline Vec<Compute<S>> broadcast(Compute<S> x) {
  return Vec<Compute<S>>{} + x;
}

// Lanes added in order: the same sum for the same lanes, always.
template <class C>
inline C sum_of_lanes(Vec<C> v) {
  C sum = 0;
  for (int i = 0; i < kLanes<C>; ++i) sum += v[i];
  return sum;
}

}  // namespace rnnfast
