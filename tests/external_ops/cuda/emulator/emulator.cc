// The fibers, the barriers and the memory of the emulator; see cuda_runtime.h.
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <vector>

#include "cuda_runtime.h"

// The dynamic shared memory that kernels declare; one guard vector follows what they asked for.
float4 shared_memory[emulator::MOST_SHARED / sizeof(float4) + 1];

dim3 blockIdx, threadIdx, gridDim, blockDim;

namespace emulator {
namespace {

constexpr int MOST_THREADS = 1024;
constexpr int LANES = 32;
constexpr int NAMED_BARRIERS = 16;
constexpr size_t STACK = 64 << 10;
constexpr unsigned char UNTOUCHED = 0xff;  // as bytes of any float type: NaN

struct Fiber {
  jmp_buf state;
  bool started;  // for good: a fiber goes on with the next block
  bool ended;
  int exchanges;
};

struct Barrier {
  int arrived;
  unsigned generation;
};

bool reversed = false;
Fiber fibers[MOST_THREADS];
Barrier barriers[NAMED_BARRIERS + MOST_THREADS / LANES];
uint64_t exchanged[MOST_THREADS / LANES][2][LANES];
char* stacks = nullptr;
int current = 0;
bool progress = false;
jmp_buf scheduler;
Call call_now = nullptr;
const void* closure_now = nullptr;

[[noreturn]] void fail(const char* message) {
  std::fprintf(stderr, "cuda emulator: %s (block %u, thread %d)\n", message, blockIdx.x, current);
  std::abort();
}

void leave() {
  if (!_setjmp(fibers[current].state)) _longjmp(scheduler, 1);
}

void body() {
  for (;;) {
    call_now(closure_now);
    fibers[current].ended = progress = true;
    leave();
  }
}

void start() {
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = stacks + current * STACK;
  context.uc_stack.ss_size = STACK;
  context.uc_link = nullptr;
  makecontext(&context, body, 0);
  fibers[current].started = true;
  setcontext(&context);
}

void step(int thread) {
  if (fibers[thread].ended) return;
  current = thread;
  threadIdx = dim3(static_cast<unsigned>(thread), 0, 0);
  if (_setjmp(scheduler)) return;
  if (fibers[thread].started) _longjmp(fibers[thread].state, 1);
  start();
}

bool all_ended(int threads) {
  for (int i = 0; i < threads; ++i)
    if (!fibers[i].ended) return false;
  return true;
}

// Each of these threads up to where it waits; whether any got further than that.
bool run_threads(int first, int count) {
  progress = false;
  for (int i = 0; i < count; ++i) step(reversed ? first + count - 1 - i : first + i);
  return progress;
}

// Each warp, from the last to the first, as far as it gets without the others.
bool run_warps(int threads) {
  bool any = false;
  for (int first = threads - LANES; first >= 0; first -= LANES)
    while (run_threads(first, LANES)) any = true;
  return any;
}

void run_block(int threads, size_t shared) {
  std::memset(shared_memory, UNTOUCHED, shared + sizeof(float4));
  for (int i = 0; i < threads; ++i) {
    fibers[i].ended = false;
    fibers[i].exchanges = 0;
  }
  std::memset(barriers, 0, sizeof barriers);
  while (!all_ended(threads))
    if (!(reversed ? run_warps(threads) : run_threads(0, threads))) fail("threads wait for each other for ever");
  const unsigned char* guard = reinterpret_cast<unsigned char*>(shared_memory) + shared;
  for (size_t i = 0; i < sizeof(float4); ++i)
    if (guard[i] != UNTOUCHED) fail("shared memory beyond what was asked for was written");
}

}  // namespace

void wait(int number, int threads) {
  Barrier& barrier = barriers[number];
  const unsigned mine = barrier.generation;
  if (++barrier.arrived == threads) {
    barrier.arrived = 0;
    ++barrier.generation;
    progress = true;
  }
  while (barrier.generation == mine) leave();
}

uint64_t* exchange(uint64_t value) {
  const int warp = current / LANES;
  uint64_t* all = exchanged[warp][fibers[current].exchanges++ % 2];
  all[current % LANES] = value;
  wait(NAMED_BARRIERS + warp, LANES);
  return all;
}

cudaError_t run(const cudaLaunchConfig_t& config, Call call, const void* closure) {
  const int threads = static_cast<int>(config.blockDim.x);
  if (threads < 1 || threads > MOST_THREADS || config.dynamicSmemBytes > MOST_SHARED) return cudaErrorInvalidValue;
  if (threads % LANES) fail("the size of a block is no multiple of 32");
  if (!stacks)
    stacks = static_cast<char*>(mmap(nullptr, STACK * MOST_THREADS, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  call_now = call;
  closure_now = closure;
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  for (unsigned i = 0; i < config.gridDim.x; ++i) {
    blockIdx = dim3(reversed ? config.gridDim.x - 1 - i : i, 0, 0);
    run_block(threads, config.dynamicSmemBytes);
  }
  return cudaSuccess;
}

namespace {

struct Mapping {
  char* start;
  size_t bytes, asked;
};
std::map<void*, Mapping> mappings;

}  // namespace
}  // namespace emulator

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), used = (bytes + 15) / 16 * 16;
  const size_t whole = (used + page - 1) / page * page;
  char* start = static_cast<char*>(
      mmap(nullptr, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (start == MAP_FAILED) return cudaErrorMemoryAllocation;
  mprotect(start + whole, page, PROT_NONE);
  *memory = start + whole - used;
  std::memset(*memory, emulator::UNTOUCHED, used);
  emulator::mappings[*memory] = {start, whole + page, bytes};
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
  if (!memory) return cudaSuccess;
  const auto found = emulator::mappings.find(memory);
  if (found == emulator::mappings.end()) return cudaErrorInvalidValue;
  const unsigned char* end = static_cast<unsigned char*>(memory);
  for (size_t i = found->second.asked; i % 16; ++i)
    if (end[i] != emulator::UNTOUCHED) emulator::fail("device memory beyond what was asked for was written");
  munmap(found->second.start, found->second.bytes);
  emulator::mappings.erase(found);
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::memset(properties, 0, sizeof *properties);
  std::strcpy(properties->name, "emulator on a CPU");
  properties->totalGlobalMem = size_t(1) << 30;
  properties->multiProcessorCount = emulator::SIMULATED_MULTIPROCESSORS;
  return cudaSuccess;
}

extern "C" void emulator_set_reversed(int yes) { emulator::reversed = yes != 0; }
