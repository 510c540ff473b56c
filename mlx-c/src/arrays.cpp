// What MLX-C has no function for.

#include "mlx/c/private/array.h"

namespace {

// Arrays between the one that is freed and the one whose next piece of memory is asked for.
constexpr size_t kStep = 8;

constexpr size_t kLine = 64;

// The node of an array in the graph: its fields take less than this.
constexpr size_t kNode = 384;

void fetch(const void* start, size_t bytes) {
  for (size_t at = 0; at < bytes; at += kLine) __builtin_prefetch(static_cast<const char*>(start) + at);
}

} // namespace

// Frees arrays, as `mlx_array_free` does each. Arrays that the garbage collector finds have not been looked at for long, and most of what
// their end costs is waiting for memory: for the handle, then for the node, then for what the node refers to. So all three are asked for
// before their turn. The owner may be taking the node apart meanwhile; then an address is fetched that nobody needs, which does no harm.
extern "C" void mlxn_free_arrays(const mlx_array* arrays, size_t count) {
  for (size_t i = 0; i < count + 3 * kStep; i++) {
    if (i < count) fetch(arrays[i].ctx, 1);
    if (size_t at = i - kStep; at < count && arrays[at].ctx != nullptr) {
      fetch(reinterpret_cast<const void*>(mlx_array_get_(arrays[at]).id()), kNode);
    }
    if (size_t at = i - 2 * kStep; at < count && arrays[at].ctx != nullptr) {
      const auto& array = mlx_array_get_(arrays[at]);
      fetch(array.inputs().data(), 1);
      fetch(array.primitive_ptr().get(), 1);
    }
    if (size_t at = i - 3 * kStep; at < count) mlx_array_free(arrays[at]);
  }
}
