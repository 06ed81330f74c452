// Working memory of a recurrence.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

#include "../plan.h"

namespace rnnfast {

// A growing block of memory per calling thread, so that a layer called again and again does not ask the
// system for fresh pages each time. What is larger than kKept is given back after the call.
class Arena {
 public:
  static constexpr size_t kAlignment = 64, kKept = size_t{64} << 20;

  // The calling thread's, whichever cell and dtype it runs.
  static Arena& of_this_thread() {
    static thread_local Arena arena;
    return arena;
  }

  ~Arena() { release(); }

  void* get(size_t bytes) {
    if (bytes > size_) {
      release();
      data_ = ::operator new(bytes, std::align_val_t(kAlignment));
      size_ = bytes;
    }
    return data_;
  }

  void trim() {
    if (size_ > kKept) release();
  }

 private:
  void release() {
    if (data_) ::operator delete(data_, std::align_val_t(kAlignment));
    data_ = nullptr, size_ = 0;
  }

  void* data_ = nullptr;
  size_t size_ = 0;
};

// Hands out aligned arrays from a block; with no block, only adds up how much they take.
template <class T>
class Carver {
 public:
  explicit Carver(T* block) : block_(block) {}
  T* take(int64_t count) {
    T* p = block_ ? block_ + taken_ : nullptr;
    constexpr int64_t unit = Arena::kAlignment / sizeof(T);
    taken_ += ceil_div(count, unit) * unit;
    return p;
  }
  int64_t taken() const { return taken_; }

 private:
  T* block_;
  int64_t taken_ = 0;
};

}  // namespace rnnfast
