// What workers owe each other (csrc/cpu/team.h), with threads that come late, early, twice or not at all.
#include "cpu/team.h"

#include <thread>

using namespace rnnfast;

#define EXPORT extern "C" __attribute__((visibility("default")))

// Threads take part as the given members, each after its delay. Returns how many shares were done twice, in
// the wrong round or not at all.
EXPORT int64_t run_crew(int members, int64_t rounds, int threads, const int* as_member, const int* delay_us) {
  Crew crew(members);
  std::vector<std::atomic<int>> done(members * rounds);
  std::atomic<int64_t> wrong{0};
  const auto work = [&](int64_t round, int share) {
    if (done[round * members + share].fetch_add(1) != 0) ++wrong;
    for (int other = 0; round > 0 && other < members; ++other)
      if (done[(round - 1) * members + other].load() != 1) ++wrong;
  };
  std::vector<std::thread> all;
  for (int i = 0; i < threads; ++i) {
    all.emplace_back([&, i] {
      std::this_thread::sleep_for(std::chrono::microseconds(delay_us[i]));
      crew.run(as_member[i], rounds, work);
    });
  }
  for (auto& thread : all) thread.join();
  for (const auto& count : done) wrong += count.load() == 1 ? 0 : 1;
  return wrong + (crew.begun() ? 0 : 1);
}

// Watches work of so many milliseconds expected to take so many, one after the other; returns whether it is
// crowded after each.
EXPORT void run_crowding(int count, const double* took_ms, const double* expected_ms, int* crowded) {
  Crowding crowding;
  for (int i = 0; i < count; ++i) {
    const auto sleep = [&] {
      std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(took_ms[i]));
    };
    if (expected_ms[i] < 0) {
      sleep();
    } else {
      crowding.watch(expected_ms[i] * 1e-3, sleep);
    }
    crowded[i] = crowding.now();
  }
}
