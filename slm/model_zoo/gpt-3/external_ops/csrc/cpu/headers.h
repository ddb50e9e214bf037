// Every standard header of the CPU kernels. It comes before the instruction set is raised, so that what these headers
// define inline, of which the linker keeps one copy for all, runs on every processor.
#pragma once

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
