// The CUDA kernels as functions of a C++ program: what code.cu needs of CUDA, and one function for each kernel that runs a grid of
// it, thread after thread. For tests on machines without a GPU; nothing of it is part of tenfour.

#define TENFOUR_ON_HOST
#define __global__
#define __device__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(threads)

struct uint4 { unsigned int x, y, z, w; };
struct Index { unsigned int x, y, z; };
static thread_local Index blockIdx, threadIdx;

static inline uint4 __ldcs(const uint4 *from) { return *from; }
static inline void __stcs(uint4 *to, uint4 vector) { *to = vector; }

#include "code.cu"

template <typename Kernel> static void run_grid(unsigned int blocks, unsigned int stripes, Kernel kernel) {
    for (blockIdx.y = 0; blockIdx.y < stripes; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)
            for (threadIdx.x = 0; threadIdx.x < THREADS; threadIdx.x++) kernel();
}

#define ON_HOST(name, Plan)                                                                                            \
    extern "C" void name##_on_host(unsigned int blocks, unsigned int stripes, const Batch *batch, const Plan *plan) {  \
        run_grid(blocks, stripes, [=] { name(*batch, *plan); });                                                       \
    }

struct Nothing {};
static inline void encode(const Batch &batch, const Nothing &) { encode(batch); }

ON_HOST(encode, Nothing)
ON_HOST(product1, Product<1>)
ON_HOST(product2, Product<2>)
ON_HOST(syndrome3, Syndrome<3>)
ON_HOST(syndrome4, Syndrome<4>)
