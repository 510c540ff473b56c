#include "pool.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
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

  void run(size_t tasks, const std::function<void(size_t)>& work) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    // A forked child has none of the threads.
    if (tasks < 2 || helpers_ == 0 || !turn.owns_lock() || getpid() != process_) {
      for (size_t i = 0; i < tasks; i++) work(i);
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      work_ = &work;
      tasks_ = tasks;
      next_.store(0);
      round_++;
    }
    wake_.notify_all();
    take(work, tasks);
    std::unique_lock<std::mutex> lock(mutex_);
    // Helpers that have not started find no work and must not start later.
    work_ = nullptr;
    done_.wait(lock, [this] { return busy_ == 0; });
  }

 private:
  void take(const std::function<void(size_t)>& work, size_t tasks) {
    for (size_t i; (i = next_.fetch_add(1)) < tasks;) work(i);
  }

  void help() {
    size_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return round_ != seen && work_; });
      seen = round_;
      busy_++;
      const auto* work = work_;
      const size_t tasks = tasks_;
      lock.unlock();
      take(*work, tasks);
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  const pid_t process_;
  size_t helpers_ = 0;
  std::mutex turn_, mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(size_t)>* work_ = nullptr;
  size_t tasks_ = 0, round_ = 0, busy_ = 0;
  std::atomic<size_t> next_{0};
};

} // namespace

void parallel(size_t tasks, const std::function<void(size_t)>& work) {
  // Never destroyed: its threads may run until the process ends.
  static Pool* const pool = new Pool;
  pool->run(tasks, work);
}

} // namespace mlxn
