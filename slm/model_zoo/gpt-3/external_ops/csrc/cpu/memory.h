// Memory that operations use while they run.
#pragma once

#include "headers.h"

namespace FUSED_ISA {

// At least `count` floats, aligned to pages, until the calling thread asks again.
inline float* scratch(long count) {
  struct Block {
    float* data = nullptr;
    long size = 0;
    ~Block() { std::free(data); }
  };
  thread_local Block block;
  if (block.size < count) {
    std::free(block.data);
    block.size = 0;
    block.data = static_cast<float*>(std::aligned_alloc(4096, (count * 4 + 4095) / 4096 * 4096));
    if (!block.data) throw std::bad_alloc();
    block.size = count;
  }
  return block.data;
}

}  // namespace FUSED_ISA
