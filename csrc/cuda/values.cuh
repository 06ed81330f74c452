// Values as they are stored, S, and as they are computed with, Compute<S>.
#pragma once

#include <cmath>

#include "../compute.h"
#include "primitives.cuh"

namespace rnnfast {

__device__ __forceinline__ float widened(float v) { return v; }
__device__ __forceinline__ double widened(double v) { return v; }
__device__ __forceinline__ float widened(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ __forceinline__ float widened(__half v) { return __half2float(v); }

template <class S>
__device__ __forceinline__ S narrowed(Compute<S> v) {
  return v;
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrowed(float v) {
  return __float2bfloat16_rn(v);
}
template <>
__device__ __forceinline__ __half narrowed(float v) {
  return __float2half_rn(v);
}

__device__ __forceinline__ double tanh_of(double v) { return tanh(v); }
__device__ __forceinline__ double sigmoid_of(double v) {
  const double e = exp(-fabs(v));  // of what is not positive: no overflow
  return (v < 0 ? e : 1) / (1 + e);
}

// Without branches, by approximate exponentials and reciprocals. NaN stays NaN.
__device__ __forceinline__ float sigmoid_of(float v) {
  const float e = fast_exp(-fabsf(v));
  return (v < 0 ? e : 1.0f) * fast_reciprocal(1 + e);
}
// (1 - e^-2a) / (1 + e^-2a); below 0.55, where the difference loses digits, v + v^3 p(v^2), p by
// interpolation in Chebyshev points: the relative error is 4e-9.
__device__ __forceinline__ float tanh_of(float v) {
  const float a = fabsf(v), e = fast_exp(-2 * a), square = v * v;
  constexpr float kP[] = {-0.333333313f, 0.133331135f, -0.0539094284f, 0.0213093888f, -0.00661022775f};
  const float p = (((kP[4] * square + kP[3]) * square + kP[2]) * square + kP[1]) * square + kP[0];
  const float small = v * square * p + v;
  const float large = copysignf((1 - e) * fast_reciprocal(1 + e), v);
  return a < 0.55f ? small : large;
}

}  // namespace rnnfast
