// What a machine can do at most: float32 multiply-adds, and reading memory from caches of each level.
// Compiled by roofline.py when it is needed.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdlib>

#include <omp.h>

#ifdef __AVX512F__
constexpr int kBytes = 64;
#else
constexpr int kBytes = 32;
#endif
constexpr int kLanes = kBytes / 4;
typedef float V __attribute__((vector_size(kBytes)));

// The compiler must suppose that the value is used.
#if defined(__x86_64__)
#define USED(v) asm volatile("" ::"v"(v))
#else
#define USED(v) asm volatile("" ::"m"(v))
#endif

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The least time of a few runs of work(thread) by all threads. They begin together, past a barrier.
template <class Work>
double least_seconds(int threads, Work work) {
  double least = 1e9;
  for (int run = 0; run < 3; ++run) {
    double begin = 0;
#pragma omp parallel num_threads(threads)
    {
#pragma omp barrier
#pragma omp master
      begin = now();
      work(omp_get_thread_num());
    }
    least = std::min(least, now() - begin);
  }
  return least;
}

void multiply_add(long rounds) {
  // As many independent sums as hide the latency of FMA on any core, and fit into 16 registers.
  V sums[12];
  for (V& s : sums) s = V{} + 1.0f;
  const V x = V{} + 1.0000001f, y = V{} + 1e-9f;
  for (long i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) {
      sums[j] = sums[j] * x + y;
      USED(sums[j]);
    }
  }
}

void read_all(const float* data, size_t bytes, size_t times) {
  for (size_t k = 0; k < times; ++k) {
    for (const float* p = data; p < data + bytes / 4; p += 4 * kLanes) {
      const V a = *(const V*)p, b = *(const V*)(p + kLanes);
      const V c = *(const V*)(p + 2 * kLanes), d = *(const V*)(p + 3 * kLanes);
      USED(a);
      USED(b);
      USED(c);
      USED(d);
    }
  }
}

}  // namespace

// So many rounds of 12 multiply-adds of vectors by each thread.
extern "C" void multiply_adds(int threads, long rounds) {
#pragma omp parallel num_threads(threads)
  multiply_add(rounds);
}

// Each thread reads a buffer of its own, of so many bytes (a multiple of 4096), so often.
extern "C" void reads(int threads, size_t bytes, size_t times) {
#pragma omp parallel num_threads(threads)
  {
    static thread_local float* own = nullptr;
    static thread_local size_t size = 0;
    if (size != bytes) {
      free(own);
      own = static_cast<float*>(aligned_alloc(4096, bytes));
      std::fill(own, own + bytes / 4, 1.0f);
      size = bytes;
    }
    read_all(own, bytes, times);
  }
}

extern "C" int lanes() { return kLanes; }

// flop/s of all threads together.
extern "C" double fma_peak(int threads) {
  const long rounds = 1'000'000;
  const double seconds = least_seconds(threads, [&](int) { multiply_add(rounds); });
  return threads * double(rounds) * 12 * kLanes * 2 / seconds;
}

// bytes/s of all threads together, each of which reads a buffer of its own (a multiple of 4096 bytes) again
// and again.
extern "C" double read_bandwidth(int threads, size_t bytes) {
  const size_t times = std::max<size_t>(1, 200'000'000 / bytes);
  float** buffers = new float*[threads];
#pragma omp parallel num_threads(threads)
  {
    float*& own = buffers[omp_get_thread_num()];  // first touched by the thread that reads it
    own = static_cast<float*>(aligned_alloc(4096, bytes));
    std::fill(own, own + bytes / 4, 1.0f);
  }
  const double seconds = least_seconds(threads, [&](int thread) { read_all(buffers[thread], bytes, times); });
  for (int i = 0; i < threads; ++i) free(buffers[i]);
  delete[] buffers;
  return threads * double(bytes) * times / seconds;
}
