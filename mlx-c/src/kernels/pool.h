// Splits big loops over the processor's cores.
#pragma once

#include <cstddef>
#include <functional>

namespace mlxn {

// Calls work(i) for every i below `tasks`, on several threads where that is possible; returns when all are done. What a task
// computes must not depend on the others: results are then the same for any number of threads. Tasks must not throw.
void parallel(size_t tasks, const std::function<void(size_t)>& work);

} // namespace mlxn
