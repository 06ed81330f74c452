// The fibres behind cuda_host.h.
// Compiled without -fsanitize=thread, with CUDA_HOST_TSAN where the kernels are compiled with it: only one
// fibre runs at a time, so nothing here can race, and ThreadSanitizer shall see only what kernels do.
#include "cuda_host.h"

#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#if defined(__x86_64__)
// Saves the callee's registers and the stack pointer, and goes on where another fibre did so.
extern "C" void cuda_host_switch(void** from, void* to);
asm(R"(.text
.globl cuda_host_switch
.type cuda_host_switch, @function
cuda_host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_host_switch, .-cuda_host_switch
)");
#else
#error "tests/cuda_host switches fibres on x86-64 only"
#endif

#if defined(CUDA_HOST_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#define TSAN(statement) statement
#else
#define TSAN(statement)
#endif
#if defined(CUDA_HOST_ASAN)
extern "C" {
void __sanitizer_start_switch_fiber(void**, const void*, size_t);
void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
}
#define ASAN(statement) statement
#else
#define ASAN(statement)
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_host {
namespace {

constexpr size_t kStack = 128 << 10;
constexpr size_t kMostShared = 232448;  // a block's on sm_90
constexpr int kAtOnce = 3;              // clusters that run side by side
constexpr unsigned kMostCluster = 16, kMostResident = 48;
constexpr size_t kMostFibres = 4096;  // of a launch, before those of ended blocks serve again
constexpr long kPatience = 100000;    // rounds in which all that run only pause

struct Block;

struct Fibre {
  Block* block = nullptr;
  unsigned index = 0;  // of the thread in its block
  void* sp = nullptr;
  struct Resources {
    char* stack = nullptr;
    void* tsan = nullptr;
  } own;
  const Place* waits = nullptr;
  bool done = false;
};

// Where `size` threads wait for each other.
struct Meeting {
  std::vector<Fibre*> here;
  Place place{};
  char order[2] = {};  // ThreadSanitizer's handles, in turns
  int turn = 0;
};

struct Warp : Meeting {
  unsigned char bytes[2][32][32];
};

struct Block;
struct Cluster {
  std::vector<Block*> blocks;
  Meeting all;
};

struct Block {
  unsigned index = 0;
  std::shared_ptr<Cluster> cluster;
  std::vector<Fibre> fibres;
  std::vector<Warp> warps;
  Meeting all;
  unsigned alive = 0;
  char start = 0;  // ThreadSanitizer's handle
  std::unique_ptr<void, void (*)(void*)> shared{nullptr, std::free};
  size_t shared_size = 0;

  char* memory() const { return static_cast<char*>(shared.get()); }
};

// A barrier of bytes: of the phase that has not ended yet.
struct Phase {
  uint32_t parity : 1, arrived : 1, mark : 30;
  int32_t bytes;  // that are still to come
};
constexpr uint32_t kMark = 0x2ba77e5;

// A write to another block's shared memory that is on its way.
struct Delivery {
  char* to;
  rnnfast::Vector16 what;
  uint64_t* barrier;
  Block* block;
};

struct Launch {
  const std::function<void()>* body;
  dim3 blocks;
  unsigned threads;
  std::vector<Fibre*> ready;
  std::vector<Delivery> deliveries;
  std::vector<std::pair<uint64_t*, Fibre*>> at_barriers;
  Fibre* now = nullptr;
  void* scheduler = nullptr;
  void* scheduler_tsan = nullptr;
  long pauses = 0;
  char end = 0;  // ThreadSanitizer's handle
};

Launch* launch;
uint64_t state = 1;
char error[512];
std::vector<Fibre::Resources> free_fibres;

// While one lives, ThreadSanitizer does not see what this fibre does. (It sees calls of malloc and memcpy,
// whoever makes them.)
struct Unseen {
  Unseen() {
    TSAN(AnnotateIgnoreReadsBegin(__FILE__, __LINE__));
    TSAN(AnnotateIgnoreWritesBegin(__FILE__, __LINE__));
  }
  ~Unseen() {
    TSAN(AnnotateIgnoreWritesEnd(__FILE__, __LINE__));
    TSAN(AnnotateIgnoreReadsEnd(__FILE__, __LINE__));
  }
};

uint64_t draw(uint64_t n) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return (state >> 11) % n;
}

void fail(const char* format, ...) {
  if (error[0]) return;
  va_list values;
  va_start(values, format);
  std::vsnprintf(error, sizeof error, format, values);
  va_end(values);
}

void to_scheduler(bool for_good = false) {
  Fibre* me = launch->now;
  TSAN(__tsan_switch_to_fiber(launch->scheduler_tsan, 1));
  void* fake = nullptr;
  ASAN(__sanitizer_start_switch_fiber(for_good ? nullptr : &fake, nullptr, 0));
  cuda_host_switch(&me->sp, launch->scheduler);
  ASAN(__sanitizer_finish_switch_fiber(fake, nullptr, nullptr));
  (void)fake, (void)for_good;
}

void fibre_main() {
  ASAN(__sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr));
  TSAN(__tsan_acquire(&launch->now->block->start));
  (*launch->body)();
  TSAN(__tsan_release(&launch->end));
  Fibre* me = launch->now;
  me->done = true, --me->block->alive;
  launch->pauses = 0;
  to_scheduler(true);
  std::abort();
}

void prepare(Fibre& f) {
  if (free_fibres.empty()) {
    void* stack =
        mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) std::abort();
    free_fibres.push_back({static_cast<char*>(stack), nullptr});
    TSAN(free_fibres.back().tsan = __tsan_create_fiber(0));
  }
  f.own = free_fibres.back();
  free_fibres.pop_back();
  void** top = reinterpret_cast<void**>(f.own.stack + kStack);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(fibre_main);
  f.sp = top - 6;
}

void resume(Fibre* f) {
  launch->now = f;
  threadIdx = {f->index, 0, 0};
  const dim3& n = launch->blocks;
  const unsigned b = f->block->index;
  blockIdx = {b % n.x, b / n.x % n.y, b / n.x / n.y};
  void* fake = nullptr;
  TSAN(__tsan_switch_to_fiber(f->own.tsan, 1));
  ASAN(__sanitizer_start_switch_fiber(&fake, f->own.stack, kStack));
  cuda_host_switch(&launch->scheduler, f->sp);
  ASAN(__sanitizer_finish_switch_fiber(fake, nullptr, nullptr));
  (void)fake;
}

// Until `size` threads are here. `orders`: whether what they did before comes before what they do after.
void meet(Meeting& m, unsigned size, bool orders, const Place& place) {
  Fibre* me = launch->now;
  if (m.here.empty()) m.place = place;
  if (std::strcmp(m.place.file, place.file) != 0 || m.place.line != place.line)
    fail("block %u: thread %u is at %s (%s:%d), others of its %s at %s (%s:%d)", me->block->index, me->index,
         place.operation, place.file, place.line, size == 32 ? "warp" : "block", m.place.operation,
         m.place.file, m.place.line);
  char* order = &m.order[m.turn];
  if (orders) {
    TSAN(__tsan_release(order));
  }
  m.here.push_back(me);
  if (m.here.size() == size) {
    for (Fibre* f : m.here)
      if (f != me) f->waits = nullptr, launch->ready.push_back(f);
    m.here.clear();
    m.turn = 1 - m.turn;
    launch->pauses = 0;
  } else {
    me->waits = &place;
    to_scheduler();
  }
  if (orders) {
    TSAN(__tsan_acquire(order));
  }
  (void)order, (void)orders;
}

Phase phase_of(const uint64_t* barrier) {
  Phase p;
  std::memcpy(&p, barrier, sizeof p);
  return p;
}

// Ends the phase if all has come.
void keep(uint64_t* barrier, Phase p) {
  if (p.arrived && p.bytes == 0) {
    p.parity ^= 1, p.arrived = 0;
    launch->pauses = 0;
    auto& waiting = launch->at_barriers;
    for (size_t i = waiting.size(); i-- > 0;) {
      if (waiting[i].first != barrier) continue;
      waiting[i].second->waits = nullptr;
      launch->ready.push_back(waiting[i].second);
      waiting[i] = waiting.back(), waiting.pop_back();
    }
  }
  std::memcpy(barrier, &p, sizeof p);
}

void deliver(size_t i) {
  const Delivery d = launch->deliveries[i];
  launch->deliveries[i] = launch->deliveries.back(), launch->deliveries.pop_back();
  if (d.block->alive == 0)
    return fail("block %u has ended before what others wrote to it came", d.block->index);
  TSAN(if (false)) std::memcpy(d.to, &d.what, sizeof d.what);
  Phase p = phase_of(d.barrier);
  p.bytes -= static_cast<int32_t>(sizeof d.what);
  keep(d.barrier, p);
}

void start_block(Block& block, unsigned index, unsigned threads, size_t shared) {
  block.index = index, block.alive = threads;
  block.fibres = std::vector<Fibre>(threads);
  block.warps = std::vector<Warp>((threads + 31) / 32);
  void* memory = nullptr;
  if (posix_memalign(&memory, 128, shared > 0 ? shared : 1) != 0) std::abort();
  std::memset(memory, 0xff, shared);
  block.shared.reset(memory), block.shared_size = shared;
  TSAN(__tsan_release(&block.start));
  for (unsigned i = 0; i < threads; ++i) {
    Fibre& f = block.fibres[i];
    f.block = &block, f.index = i;
    prepare(f);
    launch->ready.push_back(&f);
  }
}

void give_back(std::vector<Fibre>& fibres) {
  for (Fibre& f : fibres) free_fibres.push_back(f.own);
  fibres.clear();
}

void report_waiting(const std::vector<std::unique_ptr<Block>>& running) {
  for (const auto& block : running)
    for (const Fibre& f : block->fibres)
      if (!f.done && f.waits)
        return fail("deadlock: block %u thread %u waits at %s (%s:%d), %u of %zu threads have ended",
                    block->index, f.index, f.waits->operation, f.waits->file, f.waits->line,
                    static_cast<unsigned>(block->fibres.size()) - block->alive, block->fibres.size());
}

}  // namespace

void* shared_memory() { return launch->now->block->shared.get(); }
int lane() { return static_cast<int>(launch->now->index % 32); }

void barrier(const Place& place) {
  const Unseen unseen;
  Block& block = *launch->now->block;
  meet(block.all, static_cast<unsigned>(block.fibres.size()), true, place);
}

// What each lane of the warp handed in.
using Lanes = const unsigned char (&)[32][32];

Lanes hand_in(const void* mine, size_t size, const Place& place) {
  Fibre* me = launch->now;
  Warp& warp = me->block->warps[me->index / 32];
  auto& bytes = warp.bytes[warp.turn];
  std::memcpy(bytes[me->index % 32], mine, size);
  meet(warp, 32, false, place);
  return bytes;
}

void exchange(const void* mine, size_t size, int from, void* theirs, const Place& place) {
  const Unseen unseen;
  std::memcpy(theirs, hand_in(mine, size, place)[from], size);
}

void pause(const Place& place) {
  const Unseen unseen;
  if (++launch->pauses > kPatience) {
    fail("deadlock: all threads wait, one at %s (%s:%d)", place.operation, place.file, place.line);
  }
  launch->ready.push_back(launch->now);
  to_scheduler();
}

void straggle([[maybe_unused]] const Place& place) {
#if defined(CUDA_HOST_STRAGGLERS)
  if (draw(16) > 0) return;
  for (uint64_t i = draw(400); i > 0; --i) {
    launch->pauses = 0;  // what it waits for does come
    pause(place);
  }
#endif
}

void set_seed(uint64_t seed) { state = seed * 0x9e3779b97f4a7c15u + 1; }
const char* last_error() { return error; }

int rank_in_cluster() {
  const Block& block = *launch->now->block;
  return static_cast<int>(block.index % block.cluster->blocks.size());
}

char* in_block(const void* mine, int rank, const Place& place) {
  const Block& block = *launch->now->block;
  const auto& blocks = block.cluster->blocks;
  const size_t offset = static_cast<size_t>(static_cast<const char*>(mine) - block.memory());
  if (rank < 0 || static_cast<size_t>(rank) >= blocks.size() || offset >= block.shared_size) {
    fail("block %u: %s: no such place in shared memory, or no rank %d (%s:%d)", block.index, place.operation,
         rank, place.file, place.line);
    return block.memory();
  }
  return blocks[static_cast<size_t>(rank)]->memory() + offset;
}

void cluster_barrier(const Place& place) {
  const Unseen unseen;
  Block& block = *launch->now->block;
  Cluster& cluster = *block.cluster;
  meet(cluster.all, static_cast<unsigned>(block.fibres.size() * cluster.blocks.size()), true, place);
}

void initialise(uint64_t* barrier) {
  const Unseen unseen;
  const Phase p{0, 0, kMark, 0};
  std::memcpy(barrier, &p, sizeof p);
}

void expect_bytes(uint64_t* barrier, uint32_t bytes, const Place& place) {
  const Unseen unseen;
  Phase p = phase_of(barrier);
  if (p.mark != kMark || p.arrived)
    fail("%s: the barrier %s (%s:%d)", place.operation, p.arrived ? "has its arrival" : "is not initialised",
         place.file, place.line);
  TSAN(__tsan_release(barrier));
  p.arrived = 1, p.bytes += static_cast<int32_t>(bytes);
  keep(barrier, p);
}

void write_async(char* to, const rnnfast::Vector16& from, uint64_t* barrier, const Place& place) {
  const Unseen unseen;
  for (Block* block : launch->now->block->cluster->blocks) {
    if (to < block->memory() || to + sizeof from > block->memory() + block->shared_size) continue;
    TSAN(__tsan_release(barrier));
    launch->deliveries.push_back({to, from, barrier, block});
    return;
  }
  fail("%s: outside of shared memory (%s:%d)", place.operation, place.file, place.line);
}

void await_phase(uint64_t* barrier, uint32_t parity, const Place& place) {
  const Unseen unseen;
  while (phase_of(barrier).parity == parity) {
    launch->at_barriers.emplace_back(barrier, launch->now);
    launch->now->waits = &place;
    to_scheduler();
  }
  TSAN(__tsan_acquire(barrier));
}

cudaError_t run(dim3 blocks, int threads, size_t shared, rnnfast::Together together,
                const std::function<void()>& body) {
  error[0] = 0;
  const unsigned count = blocks.x * blocks.y * blocks.z;
  const unsigned size = static_cast<unsigned>(together.cluster);
  if (size == 0 || size > kMostCluster || blocks.x % size != 0 ||
      (together.resident && count > kMostResident)) {
    fail("launch: %u blocks in clusters of %u%s", count, size, together.resident ? " at the same time" : "");
    return cudaErrorInvalidConfiguration;
  }
  if (count == 0 || threads <= 0 || threads > 1024 || shared > kMostShared) {
    fail("launch: %u blocks of %d threads with %zu bytes of shared memory", count, threads, shared);
    return cudaErrorInvalidConfiguration;
  }
  if (threads % 32 != 0) {
    fail("launch: %d threads are not whole warps", threads);
    return cudaErrorInvalidConfiguration;
  }
  Launch l{};
  l.body = &body, l.blocks = blocks, l.threads = static_cast<unsigned>(threads);
  launch = &l;
  blockDim = dim3(static_cast<unsigned>(threads)), gridDim = blocks;
  TSAN(l.scheduler_tsan = __tsan_get_current_fiber());
  std::vector<unsigned> waiting(count / size);  // clusters
  for (unsigned i = 0; i < waiting.size(); ++i) waiting[i] = i;
  const bool late = draw(2) == 0;  // whether writes come only where all wait for them
  const size_t at_once = together.resident ? count : size_t{kAtOnce} * size;
  std::vector<std::unique_ptr<Block>> running, ended;
  while (!error[0] && (!waiting.empty() || !running.empty())) {
    while (!waiting.empty() && running.size() + size <= at_once) {
      std::swap(waiting[draw(waiting.size())], waiting.back());
      const auto cluster = std::make_shared<Cluster>();
      for (unsigned rank = 0; rank < size; ++rank) {
        running.push_back(std::make_unique<Block>());
        running.back()->cluster = cluster;
        cluster->blocks.push_back(running.back().get());
        start_block(*running.back(), waiting.back() * size + rank, l.threads, shared);
      }
      waiting.pop_back();
    }
    const bool all_wait = l.ready.empty() || l.pauses > static_cast<long>(4 * l.ready.size());
    if (!l.deliveries.empty() && (all_wait || (!late && draw(2) == 0))) {
      deliver(draw(l.deliveries.size()));
      continue;
    }
    if (l.ready.empty()) {
      report_waiting(running);
      break;
    }
    std::swap(l.ready[draw(l.ready.size())], l.ready.back());
    Fibre* next = l.ready.back();
    l.ready.pop_back();
    resume(next);
    for (size_t i = 0; i < running.size(); ++i) {
      if (running[i]->alive > 0) continue;
      // What a block used serves others only after the launch, or they would be ordered after it.
      ended.push_back(std::move(running[i]));
      if (ended.size() * l.threads > kMostFibres)
        give_back(ended[ended.size() - kMostFibres / l.threads]->fibres);
      running.erase(running.begin() + static_cast<long>(i));
      break;
    }
  }
  if (!l.deliveries.empty()) fail("blocks have ended before what others wrote to them came");
  TSAN(__tsan_acquire(&l.end));
  for (const auto& block : ended) give_back(block->fibres);
  return error[0] ? cudaErrorLaunchFailure : cudaSuccess;
}

float bits_to_float(uint32_t bits) {
  float v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

void multiply(float (&d)[4], const Fragments& mine, Kind kind, const Place& place) {
  const Unseen unseen;
  Lanes lanes = hand_in(&mine, sizeof mine, place);
  const auto of = [&](int lane) {
    Fragments theirs;
    std::memcpy(&theirs, lanes[lane], sizeof theirs);
    return theirs;
  };
  const int per_register = kind == Kind::tf32 ? 1 : 2, inner = 8 * per_register;
  const auto value = [&](uint32_t bits, int half) {
    const uint16_t part = static_cast<uint16_t>(half ? bits >> 16 : bits);
    if (kind == Kind::tf32) return bits_to_float(bits & ~0x1fffu);  // the hardware does not read the others
    if (kind == Kind::bf16) return bits_to_float(static_cast<uint32_t>(part) << 16);
    __half_raw raw;
    raw.x = part;
    return __half2float(__half(raw));
  };
  // Rows of a and columns of b, by the PTX manual: lane = 4 (row % 8) + place in the row; registers 0 and 1
  // have the first half of the terms, 2 and 3 the second; 1 and 3 of a the rows from 8 on.
  const auto holder = [&](int row, int k) { return row % 8 * 4 + k % (inner / 2) / per_register; };
  for (int i = 0; i < 4; ++i) {
    const int row = lane() / 4 + 8 * (i / 2), column = 2 * (lane() % 4) + i % 2;
    float sum = 0;
    for (int k = 0; k < inner; ++k) {
      const int half = k / (inner / 2);
      const Fragments a = of(holder(row, k)), b = of(holder(column, k));
      sum += value(a.a[2 * half + row / 8], k % per_register) * value(b.b[half], k % per_register);
    }
    d[i] += sum;
  }
}

}  // namespace cuda_host
