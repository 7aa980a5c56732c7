// A stage of float32: the 8 warps share the products of a row, and their sums meet in shared memory.
//
// Not on tensor cores: their TF32 keeps 10 bits of a factor, which draws other pixels than the reference. Three products of
// split factors would not; for the 8 rows of batch 1 they were estimated to take as long as the FMAs, and were not built.
#pragma once

#include "finish.h"
#include "multiply_float.h"

namespace vlae::cuda::pixelcnn_sample {

// A warp's part of the products of some chunks: a slice of one. Warps behind the last chunk have none.
struct Part {
  int chunk, slice;
  bool is_any;
};

__device__ inline Part part_of(const Stage& stage, int first_chunk) {
  const int warp = static_cast<int>(threadIdx.x) / 32, chunk = first_chunk + (warp >> stage.slice_bits);
  return {chunk, warp & (stage.slices - 1), chunk < stage.chunks};
}

// The first weights of a part, which wait for nothing that was computed. from: where this lane reads.
struct Start {
  const float* from;
  Weights weights;
};

__device__ inline Start start_of(const Stage& stage, const Part& part, const float* packed) {
  const int column = (part.chunk * 32 + static_cast<int>(threadIdx.x) % 32) * stage.lane_columns;
  Start start = {packed + 4 * static_cast<int64_t>(stage.weight), {}};
  start.from += static_cast<int64_t>(first_group(stage, part.slice)) * 4 * stage.columns;
  start.from += column < stage.columns ? column : 0;  // nobody reads the products of lanes behind the last column
  if (first_group(stage, part.slice) == first_group(stage, part.slice + 1)) return start;
  start.weights =
      stage.lane_columns == 4 ? load_weights<4>(start.from, stage.columns) : load_weights<2>(start.from, stage.columns);
  return start;
}

template <int Columns>
__device__ void multiply_rows(const Program& p, const Stage& stage, int rows, int slice, const Start& start,
                              const ThreadBlock<float>& block, float* sums) {
  const auto multiply_up_to = [&]<int Rows>() {
    multiply<Rows, Columns>(p, stage, slice, start.from, start.weights, block.cache, block.offsets, block.rows, sums);
  };
  if (rows > 12)
    multiply_up_to.template operator()<16>();
  else if (rows > 8)
    multiply_up_to.template operator()<12>();
  else if (rows > 4)
    multiply_up_to.template operator()<8>();
  else
    multiply_up_to.template operator()<4>();
}

__device__ void multiply_part(const Program& p, const Stage& stage, const Part& part, int rows, const Start& start,
                              const ThreadBlock<float>& block, float* sums) {
  if (stage.lane_columns == 4)
    multiply_rows<4>(p, stage, rows, part.slice, start, block, sums);
  else
    multiply_rows<2>(p, stage, rows, part.slice, start, block, sums);
}

// Locates a block of rows and computes it, some chunks at a time. The first weights are on their way before.
__device__ inline void run_sums(const Program& p, const Stage& stage, const Tensors& t, const RowBlock& rows,
                                const ThreadBlock<float>& block) {
  for (int chunk = 0; chunk < stage.chunks; chunk += kWarps >> stage.slice_bits) {
    const Part part = part_of(stage, chunk);
    Start start = {};
    if (part.is_any) start = start_of(stage, part, static_cast<const float*>(t.packed));
    if (chunk == 0) locate(p, stage, rows, block);
    __syncthreads();  // offsets and activations of the stage before are written; the last sums have been read
    float* sums = block.sums + static_cast<int>(threadIdx.x) / 32 * block.rows * kMaxColumns;
    if (part.is_any) multiply_part(p, stage, part, rows.count, start, block, sums);
    __syncthreads();
    finish_chunks(p, stage, t, chunk, rows.count, block);
  }
}

}  // namespace vlae::cuda::pixelcnn_sample
