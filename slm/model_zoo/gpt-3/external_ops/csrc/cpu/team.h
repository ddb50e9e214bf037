// Threads that work on one operation and meet in it.
#pragma once

#include "headers.h"

namespace FUSED_ISA {

// Where `threads` threads wait for each other, again and again.
struct Team {
  explicit Team(long threads) : threads(threads) {}
  const long threads;
  std::atomic<long> arrived{0}, round{0};
};

// One of them.
struct Member {
  Team& team;
  const long index, threads;

  // total += the values of all members, in their order, so that it is the same each time.
  void add(double& total, double value) {
    for (long turn = 0; turn < threads; ++turn, meet())
      if (turn == index) total += value;
  }

  // Spins for a moment: parts are nearly equal, and a wake-up through the kernel costs more than they differ by.
  void meet() {
    if (threads == 1) return;
    const long now = team.round.load(std::memory_order_relaxed);
    if (team.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
      team.arrived.store(0, std::memory_order_relaxed);
      team.round.store(now + 1, std::memory_order_release);
      return;
    }
    for (long turns = 0; team.round.load(std::memory_order_acquire) == now; ++turns)
      if (turns >= 4096)
        sched_yield();
#if defined(__x86_64__)
      else
        __builtin_ia32_pause();
#endif
  }
};

// work(member) in each of up to `threads` threads at once.
template <class Work>
void together(long threads, const Work& work) {
  if (threads <= 1) {
    Team team(1);
    Member me{team, 0, 1};
    return work(me);
  }
  Team* team = nullptr;
#pragma omp parallel num_threads(threads)
  {
#pragma omp single
    team = new Team(omp_get_num_threads());
    Member me{*team, omp_get_thread_num(), team->threads};
    work(me);
  }
  delete team;
}

}  // namespace FUSED_ISA
