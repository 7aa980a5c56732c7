"""An H100 SXM, as the models of cycles take it to be."""

PROCESSORS, CLOCK = 132, 1.755e9  # cycles a second
REGISTERS, SHARED, WARPS = 65536, 227 * 1024, 64  # of a processor
# A processor's rates in a cycle: products of 16 bits, as torch.mm of 8192^3 reaches them (790 TFLOP/s); products
# of float32 without matrix instructions; instructions of a warp; bytes from L2.
PRODUCTS, FMAS, ISSUED, L2_BYTES = 1700, 128, 4, 64
# Bytes a second from memory and, of tensors that fit the L2 cache, from there; its bytes; microseconds of a launch.
MEMORY, L2, L2_SIZE, LAUNCH_US = 3.0e12, 5.5e12, 40e6, 2.0
