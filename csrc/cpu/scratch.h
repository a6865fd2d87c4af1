// Working memory that a thread keeps from call to call.
#pragma once

#include <cstdint>

namespace nk {

/// Memory in whole cache lines, as it comes, given back when it goes out of scope. An allocator may return a few megabytes to the system
/// after every call: at one page fault per 4 KB getting them anew took a third of a call with 256 units, measured. So each thread keeps
/// the last two pieces, if they are not very large.
class Scratch {
 public:
  explicit Scratch(int64_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() const { return data_; }

 private:
  void* data_;
  int64_t bytes_;
};

}  // namespace nk
