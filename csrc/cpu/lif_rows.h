// How drivers reach the rows of tensors, whatever their storage type.
#pragma once

#include "cpu/lif_block.h"

namespace nk::lif {

inline bool is_narrow(Dtype dtype) { return dtype == Dtype::kBfloat16 || dtype == Dtype::kFloat16; }

/// What an absent tensor reads as, in every dtype.
alignas(64) inline constexpr double kZeros[kLanes] = {};

/// Reads a tensor over time, chunk by chunk: where it lies, or widened into a buffer. An absent tensor reads as zeros.
template <class T>
class Input {
 public:
  Input(Dtype dtype, const Series& series, const Block& block) : dtype_(dtype), series_(series), block_(block) {}

  Rows<const T> rows(int64_t t, int steps) {
    if (!series_.data) return {reinterpret_cast<const T*>(kZeros), 0};
    if constexpr (sizeof(T) == sizeof(float)) {
      if (is_narrow(dtype_)) {
        widen_rows(dtype_, at<uint16_t>(series_, block_, t).data, series_.step, buffer_, steps, block_.lanes);
        return {buffer_.rows[0], kLanes};
      }
    }
    const Rows<T> there = at<T>(series_, block_, t);
    return {there.data, there.stride};
  }

 private:
  Dtype dtype_;
  Series series_;
  Block block_;
  Buffer<T> buffer_;
};

/// Writes a tensor over time, chunk by chunk; what goes to an absent tensor is lost.
template <class T>
class Output {
 public:
  Output(Dtype dtype, const Series& series, const Block& block) : dtype_(dtype), series_(series), block_(block) {}

  Rows<T> rows(int64_t t) {
    if (!series_.data) return {buffer_.rows[0], 0};
    return is_narrow(dtype_) ? Rows<T>(buffer_) : at<T>(series_, block_, t);
  }

  /// Moves the rows that were written to where they belong.
  void flush(int64_t t, int steps) {
    if constexpr (sizeof(T) == sizeof(float)) {
      if (!series_.data || !is_narrow(dtype_)) return;
      narrow_rows(dtype_, buffer_, at<uint16_t>(series_, block_, t).data, series_.step, steps, block_.lanes);
    }
  }

 private:
  Dtype dtype_;
  Series series_;
  Block block_;
  Buffer<T> buffer_;
};

/// A tensor over time where it lies, from step t on, whatever its dtype; a buffer of one step (zeros, to be read) for an absent one.
template <class Void>
Rows<Void> raw_rows(Dtype dtype, const Series& series, const Block& block, int64_t t, Void* absent) {
  const int64_t bytes = dtype == Dtype::kFloat64 ? 8 : is_narrow(dtype) ? 2 : 4;
  Rows<Void> rows;
  rows.data = static_cast<char*>(series.data) + bytes * (t * series.step + block.outer * series.outer + block.begin);
  rows.stride = series.step;
  if (!series.data) rows.data = absent, rows.stride = 0;
  return rows;
}

inline int64_t last_chunk(const Size& size) { return (size.steps + kChunk - 1) / kChunk - 1; }

/// Runs `job.run<T>(block)` for every block, with T the type of the state.
template <class Job>
void run_blocks(const Job& job, int threads) {
  for_each_block(job.size, threads, [&](const Block& block) {
    if (job.dtype == Dtype::kFloat64) {
      job.template run<double>(block);
    } else {
      job.template run<float>(block);
    }
  });
}

}  // namespace nk::lif
