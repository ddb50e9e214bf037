// What csrc/paddle/gpu.h uses of Paddle, on the memory of the emulator, so that the bindings for GPUs can run.
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace phi {

enum class DataType { FLOAT32, FLOAT16, BFLOAT16, INT64, UINT8 };

inline size_t size_of(DataType type) {
  return type == DataType::INT64 ? 8 : type == DataType::FLOAT32 ? 4 : type == DataType::UINT8 ? 1 : 2;
}

inline std::string DataTypeToString(DataType type) { return "type " + std::to_string(static_cast<int>(type)); }

struct Place {
  int device;  // -1 is the host
  bool operator==(const Place& other) const { return device == other.device; }
  std::string DebugString() const { return device < 0 ? "cpu" : "gpu:" + std::to_string(device); }
};

}  // namespace phi

namespace paddle {

using phi::DataType;

class Tensor {
 public:
  Tensor() = default;
  Tensor(std::vector<int64_t> shape, DataType type, phi::Place place) : shape_(shape), type_(type), place_(place) {
    void* memory = nullptr;
    if (cudaMalloc(&memory, numel() * phi::size_of(type) + 1) != cudaSuccess) throw std::bad_alloc();
    memory_.reset(memory, cudaFree);
  }
  std::vector<int64_t> shape() const { return shape_; }
  DataType dtype() const { return type_; }
  phi::Place place() const { return place_; }
  bool is_gpu() const { return place_.device >= 0; }
  bool is_cpu() const { return place_.device < 0; }
  bool is_dense_tensor() const { return true; }
  bool initialized() const { return memory_ != nullptr; }
  cudaStream_t stream() const { return nullptr; }
  int64_t numel() const {
    int64_t count = 1;
    for (int64_t size : shape_) count *= size;
    return count;
  }
  void* data() const { return memory_.get(); }
  template <typename T>
  T* data() const {
    return static_cast<T*>(memory_.get());
  }

 private:
  std::vector<int64_t> shape_;
  DataType type_ = DataType::FLOAT32;
  phi::Place place_{0};
  std::shared_ptr<void> memory_;
};

namespace experimental {

inline Tensor empty(const std::vector<int64_t>& shape, DataType type, phi::Place place = {-1}) {
  return Tensor(shape, type, place);
}
inline Tensor full(const std::vector<int64_t>& shape, int, DataType type, phi::Place place) {
  Tensor x(shape, type, place);
  cudaMemset(x.data(), 0, x.numel() * phi::size_of(type));
  return x;
}
inline Tensor zeros_like(const Tensor& x) { return full(x.shape(), 0, x.dtype(), x.place()); }
inline Tensor copy_to(const Tensor& x, phi::Place place, bool) {
  Tensor y(x.shape(), x.dtype(), place);
  cudaMemcpy(y.data(), x.data(), x.numel() * phi::size_of(x.dtype()), cudaMemcpyHostToDevice);
  return y;
}

}  // namespace experimental
}  // namespace paddle

template <typename... T>
void pd_check(bool right, const T&... words) {
  std::ostringstream text;
  (text << ... << words);
  if (!right) throw std::runtime_error(text.str());
}
#define PD_CHECK(...) pd_check(__VA_ARGS__)
