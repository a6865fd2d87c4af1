#include "cpu/scratch.h"

#include <new>
#include <utility>

#include "common/pages.h"

namespace nk {
namespace {

constexpr std::align_val_t kAlignment{64};
/// What a thread may keep in one piece.
constexpr int64_t kMost = int64_t{32} << 20;

struct Piece {
  void* data = nullptr;
  int64_t bytes = 0;
};

/// Pieces that a thread has and does not use.
struct Kept {
  Piece pieces[2];
  ~Kept() {
    for (const Piece& piece : pieces) ::operator delete(piece.data, kAlignment);
  }
};

thread_local Kept kept;

}  // namespace

Scratch::Scratch(int64_t bytes) : data_(nullptr), bytes_(bytes) {
  for (Piece& piece : kept.pieces) {
    if (piece.bytes < bytes || piece.bytes > 4 * bytes) continue;  // a small need does not hold a large piece
    data_ = piece.data, bytes_ = piece.bytes;
    piece = {};
    return;
  }
  data_ = ::operator new(bytes, kAlignment);
  expect_large_pages(data_, bytes);
}

Scratch::~Scratch() {
  Piece mine{data_, bytes_};
  if (mine.bytes <= kMost) {
    std::swap(mine, kept.pieces[0]);
    std::swap(mine, kept.pieces[1]);  // the older one makes room
  }
  ::operator delete(mine.data, kAlignment);
}

}  // namespace nk
