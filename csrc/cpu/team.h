// Running the same work on several workers, and what workers owe each other: no one waits for a share that
// nobody has begun, and no one spins for long.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

#if defined(RNNFAST_STD_THREADS)
#include <thread>
#elif defined(_OPENMP)
#include <omp.h>
#endif

namespace rnnfast {

// Calls work(worker) once for each worker, side by side, and returns when all have finished. `work` must not
// throw. One worker runs in the caller without touching OpenMP, so a child of fork() with one thread is safe;
// inside another parallel region the workers take turns.
template <class Work>
void parallel(int workers, const Work& work) {
#if defined(RNNFAST_STD_THREADS)  // for ThreadSanitizer, which does not see into OpenMP's runtime
  std::vector<std::thread> others;
  for (int worker = 1; worker < workers; ++worker) others.emplace_back([&work, worker] { work(worker); });
  work(0);
  for (auto& thread : others) thread.join();
  return;
#elif defined(_OPENMP)
  if (workers > 1 && !omp_in_parallel()) {
// Always a team of torch's size, as in ATen/ParallelOpenMP.h: libgomp ends and starts threads when the size
// changes (num_threads). The team may be larger or smaller than the number of workers.
#pragma omp parallel
    for (int worker = omp_get_thread_num(); worker < workers; worker += omp_get_num_threads()) work(worker);
    return;
  }
#endif
  for (int worker = 0; worker < workers; ++worker) work(worker);
}

// Whether other programs leave this one fewer processors than it has threads, told by how long things take.
//
// A parallel region, ours or a library's, ends when its last thread has been there, even if others have done
// its share. Where that thread waits for a processor, this is the time slice of another program, which
// libgomp's spinning threads only prolong: two workers then take 10 ms for what one does in 0.1. After that
// has happened all of ours is done by one worker for a while; each time that follows doubles the while.
class Crowding {
 public:
  using Clock = std::chrono::steady_clock;

  bool now() const { return seconds() < until_.load(std::memory_order_relaxed); }

  // Does some work of several threads that is expected to take so many seconds, and learns from it.
  template <class Work>
  auto watch(double expected, const Work& work) {
    struct Watch {
      Crowding& crowding;
      double expected, begin = seconds();
      ~Watch() { crowding.learn(seconds() - begin, expected); }
    } watch{*this, expected};
    return work();
  }

 private:
  static double seconds() { return std::chrono::duration<double>(Clock::now().time_since_epoch()).count(); }

  void learn(double took, double expected) {
    if (took < kSlice + kSlow * expected) {
      pause_.store(kShortest, std::memory_order_relaxed);
      return;
    }
    const double pause = pause_.load(std::memory_order_relaxed);
    until_.store(seconds() + pause, std::memory_order_relaxed);
    pause_.store(std::min(2 * pause, kLongest), std::memory_order_relaxed);
  }

  // Time slices are longer than this, and no machine is so much slower than the one expectations come from.
  static constexpr double kSlice = 1e-3, kSlow = 5;
  static constexpr double kShortest = 0.05, kLongest = 2;  // s
  std::atomic<double> until_{0}, pause_{kShortest};
};

// Where part i of n of a range begins, and part i - 1 ends.
constexpr int64_t part(int64_t size, int i, int n) { return size * i / n; }

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Rounds of work, each cut into as many shares as there are members, each share done once. A round begins
// when all shares of the round before are done. Member i takes share i, so that what the share needs stays in
// its core's cache; a share whose member is late is taken by whoever waits for it. Any number of threads may
// take part, as any member.
class Crew {
 public:
  explicit Crew(int members) : shares_(members) {}

  bool begun() const {
    for (const Share& share : shares_)
      if (share.claimed.load(std::memory_order_relaxed) > 0) return true;
    return false;
  }

  // Takes part until all rounds are done. Calls work(round, share).
  template <class Work>
  void run(int member, int64_t rounds, const Work& work) {
    const int members = static_cast<int>(shares_.size());
    for (int64_t round = 0; round < rounds; ++round) {
      // Others may have gone on without this member: it joins them where they are.
      round = std::max(round, shares_[member].claimed.load(std::memory_order_acquire) - 1);
      if (take(member, round, work)) shares_[member].late.store(false, std::memory_order_relaxed);
      for (int i = 1; i <= members; ++i) wait((member + i) % members, round, work);
    }
  }

 private:
  // A cache line pair each: neighbouring lines are fetched together.
  struct alignas(128) Share {
    std::atomic<int64_t> claimed{0}, done{0};  // rounds
    std::atomic<bool> late{false};             // somebody else did the latest round
  };

  template <class Work>
  bool take(int share, int64_t round, const Work& work) {
    int64_t expected = round;
    if (!shares_[share].claimed.compare_exchange_strong(expected, round + 1)) return false;
    work(round, share);
    shares_[share].done.exchange(round + 1);
    if (sleepers_.load() > 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      wakeup_.notify_all();
    }
    return true;
  }

  // Waits until a share of a round is done. One that nobody begins it takes, after some patience or, if its
  // member was late before, at once. Who has begun one and was interrupted may need this very core: the wait
  // ends asleep.
  template <class Work>
  void wait(int share, int64_t round, const Work& work) {
    Share& s = shares_[share];
    const auto done_soon = [&] {
      for (int spin = 0; spin < kPatience; ++spin) {
        if (s.done.load(std::memory_order_acquire) > round) return true;
        pause();
      }
      return false;
    };
    if (!s.late.load(std::memory_order_relaxed) && done_soon()) return;
    if (take(share, round, work)) return s.late.store(true, std::memory_order_relaxed);
    if (done_soon()) return;
    std::unique_lock<std::mutex> lock(mutex_);
    ++sleepers_;
    wakeup_.wait(lock, [&] { return s.done.load() > round; });
    --sleepers_;
  }

  // About 15 us of pauses.
  static constexpr int kPatience = 1000;

  std::vector<Share> shares_;
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable wakeup_;
};

}  // namespace rnnfast
