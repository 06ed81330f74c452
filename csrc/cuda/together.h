// Blocks of threads of a launch that work together, wherever they run.
#pragma once

#include <cstdint>

namespace rnnfast {

// Which blocks run at the same time.
struct Together {
  int cluster = 1;        // so many, one behind the other in the first dimension
  bool resident = false;  // all of them
};

// What is written to memory of others in one piece.
struct alignas(16) Vector16 {
  uint32_t v[4];
};

// Who waits for others: by which link, and for the operand of which step.
struct Waiter {
  const char* link;
  int step;
};

}  // namespace rnnfast
