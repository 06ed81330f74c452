// Workers, as many as pay.
#pragma once

#include <functional>

namespace rnnfast {

// Does work with as many workers as there are threads and processors for; with one while the processors are
// busy with other programs, which is seen from how long it takes beyond the seconds expected.
void with_workers(double expected, const std::function<void(int)>& work);

}  // namespace rnnfast
