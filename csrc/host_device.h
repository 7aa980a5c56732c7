// Marks what the host and kernels both call.
#pragma once

#if defined(__CUDACC__)
#define VLAE_HOST_DEVICE __host__ __device__
#else
#define VLAE_HOST_DEVICE
#endif
