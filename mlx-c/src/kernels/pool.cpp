#include "pool.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>

namespace mlxn {
namespace {

class Pool {
 public:
  Pool() : process_(getpid()) {
    size_t threads = std::min(std::max(std::thread::hardware_concurrency(), 1u), 16u);
    // Who limits OpenBLAS's threads means ours as well.
    for (const char* name : {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}) {
      const char* text = std::getenv(name);
      const int limit = text ? std::atoi(text) : 0;
      if (limit > 0) threads = std::min(threads, static_cast<size_t>(limit));
    }
    try {
      for (; helpers_ + 1 < threads; helpers_++) std::thread([this] { help(); }).detach();
    } catch (const std::exception&) {
      // Fewer threads than wished for: the caller does the rest.
    }
  }

  size_t threads() const {
    return helpers_ + 1;
  }

  void run(size_t tasks, const std::function<void(size_t)>& work) {
    // A task that splits its own work does all of it: the other threads have tasks already. A forked child has none of them.
    std::unique_lock<std::mutex> turn(turn_, std::defer_lock);
    if (tasks < 2 || helpers_ == 0 || at_work_ || !turn.try_lock() || getpid() != process_) {
      for (size_t i = 0; i < tasks; i++) work(i);
      return;
    }
    size_t asleep;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      work_ = &work;
      tasks_ = tasks;
      next_.store(0);
      round_.fetch_add(1);
      asleep = asleep_;
    }
    for (size_t i = 0; i < std::min(asleep, tasks - 1); i++) wake_.notify_one();
    take(work, tasks);
    std::unique_lock<std::mutex> lock(mutex_);
    // Helpers that have not started find no work and must not start later.
    work_ = nullptr;
    if (busy_.load() == 0) return;
    lock.unlock();
    if (spin([this] { return busy_.load() == 0; })) return;
    lock.lock();
    done_.wait(lock, [this] { return busy_.load() == 0; });
  }

 private:
  // Waits a little without sleeping: the kernels of a step follow each other within microseconds, and waking a thread takes tens
  // of them. No longer than that, or waiting would take the cores from other programs and, once these fill the cores, from the
  // very threads that are waited for.
  template <class Done>
  static bool spin(Done done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(20);
    do {
      for (int i = 0; i < 32; i++) {
        if (done()) return true;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      }
    } while (std::chrono::steady_clock::now() < end);
    return done();
  }

  void take(const std::function<void(size_t)>& work, size_t tasks) {
    at_work_ = true;
    for (size_t i; (i = next_.fetch_add(1)) < tasks;) work(i);
    at_work_ = false;
  }

  void help() {
    size_t seen = 0;
    for (;;) {
      spin([&] { return round_.load() != seen; });
      std::unique_lock<std::mutex> lock(mutex_);
      asleep_++;
      wake_.wait(lock, [&] { return round_.load() != seen; });
      asleep_--;
      seen = round_.load();
      if (!work_) continue;
      busy_.fetch_add(1);
      const auto* work = work_;
      const size_t tasks = tasks_;
      lock.unlock();
      take(*work, tasks);
      lock.lock();
      if (busy_.fetch_sub(1) == 1) done_.notify_one();
    }
  }

  const pid_t process_;
  size_t helpers_ = 0;
  std::mutex turn_, mutex_;
  std::condition_variable wake_, done_;
  // Written with the mutex held; read without it only while spinning.
  std::atomic<size_t> round_{0}, busy_{0}, next_{0};
  const std::function<void(size_t)>* work_ = nullptr;
  size_t tasks_ = 0, asleep_ = 0;
  static thread_local bool at_work_;
};

thread_local bool Pool::at_work_ = false;

Pool& pool() {
  // Never destroyed: its threads may run until the process ends.
  static Pool* const pool = new Pool;
  return *pool;
}

} // namespace

void parallel(size_t tasks, const std::function<void(size_t)>& work) {
  pool().run(tasks, work);
}

} // namespace mlxn

extern "C" size_t mlxn_threads() {
  return mlxn::pool().threads();
}

extern "C" void mlxn_parallel(size_t tasks, void (*work)(const void*, size_t), const void* context) {
  mlxn::parallel(tasks, [=](size_t i) { work(context, i); });
}
